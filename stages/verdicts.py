"""One model under one attack on every set: one record per set, each kept outside DVC as soon as it is done."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from stages.command import progress, scratch
from zsr import storage
from zsr.data.prepared import Prepared
from zsr.evaluate import Evaluation, attacks_run, evaluate, protocol
from zsr.models.classifier import Classifier
from zsr.params import block, component, under_protocol
from zsr.records import Record


@dataclass(frozen=True)
class Judged:
    """method, seed: as the record names them. weights: digest of the model's. model: an open_clip model."""

    method: str
    seed: int
    weights: str
    model: nn.Module


def judge(document: Mapping, judged: Judged, attack_name: str, sets: Mapping[str, Prepared], out: Path) -> None:
    """Writes out/<set>.json for every set."""
    document = under_protocol(document)
    evaluation, attack = block(document, "evaluate", Evaluation), component(document, "attacks", attack_name)
    for name, data in sets.items():
        model = Classifier(judged.model, data.text_embeddings)
        settings = repr((judged.weights, attack, replace(evaluation, save_every=1), judged.seed))
        inputs = storage.digest(data.embedded, data.split.ids.tobytes(), storage.computer_digest(), settings)
        stated = protocol(model, attack, data.split.images.shape[1], data.template, evaluation)
        cell = {"method": judged.method, "seed": judged.seed, "attack": attack_name, "set_name": name}
        listed = attacks_run(attack, attack_name, len(data.text_embeddings))
        facts = {"protocol": stated, "attacks_run": listed, "counted": evaluation.counted}
        blank = Record(**cell, fingerprint=inputs, **facts)
        kept = scratch("evaluate", attack_name, f"{name}-{inputs}.json")  # of equal weights, whatever their method
        with storage.claimed(kept):
            watch = progress(f"{judged.method} {attack_name} {name}", "batch")
            evaluate(model, attack, data.split, blank, evaluation, kept, watch).save(out / f"{name}.json")
