"""One checkpoint under one attack on every set: one record per set, each kept outside DVC as soon as it is done."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from stages.command import progress, scratch
from zsr import storage
from zsr.data.prepared import Prepared
from zsr.evaluate import Evaluation, attacks_run, evaluate, protocol
from zsr.models import clip
from zsr.models.classifier import Classifier
from zsr.params import block, component, under_protocol
from zsr.records import Record


def judge(
    document: Mapping,
    method: str,
    seed: int,
    attack_name: str,
    checkpoint: Path,
    sets: Mapping[str, Prepared],
    out: Path,
) -> None:
    """Writes out/<set>.json for every set. method, seed: of the checkpoint, for the record."""
    document = under_protocol(document)
    evaluation, attack = block(document, "evaluate", Evaluation), component(document, "attacks", attack_name)
    clip_model = clip.create(block(document, "model.arch", str), checkpoint)
    for name, data in sets.items():
        model = Classifier(clip_model, data.text_embeddings)
        ids = data.split.ids.tobytes()
        settings = repr((attack, replace(evaluation, save_every=1), seed))
        inputs = storage.digest(checkpoint, data.embedded, ids, storage.computer_digest(), settings)
        stated = protocol(model, attack, data.split.images.shape[1], data.template, evaluation)
        cell = {"method": method, "seed": seed, "attack": attack_name, "set_name": name}
        listed = attacks_run(attack, attack_name, len(data.text_embeddings))
        facts = {"protocol": stated, "attacks_run": listed, "counted": evaluation.counted}
        blank = Record(**cell, fingerprint=inputs, **facts)
        kept = scratch("evaluate", method, attack_name, f"{name}-{inputs}.json")
        with storage.claimed(kept):
            watch = progress(f"{method} {attack_name} {name}", "batch")
            evaluate(model, attack, data.split, blank, evaluation, kept, watch).save(out / f"{name}.json")
