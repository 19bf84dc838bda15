"""One method under one attack on every set: one record per set, each kept as soon as it is done."""

from pathlib import Path

import click
import torch

from stages.command import EXISTING, WRITTEN, progress, scratch, stage
from zsr import storage
from zsr.data.split import Split
from zsr.data.world import SetSize
from zsr.errors import StudyError
from zsr.evaluate import Evaluation, evaluate, protocol
from zsr.models import clip
from zsr.models.classifier import Classifier
from zsr.params import Count, block, component, read
from zsr.records import Record


@stage
@click.argument("method")
@click.argument("attack_name")
@click.option("--checkpoint", type=EXISTING, required=True)
@click.option("--sets", type=EXISTING, required=True)
@click.option("--text", type=EXISTING, required=True)
@click.option("--out", type=WRITTEN, required=True)
def main(method: str, attack_name: str, params: Path, checkpoint: Path, sets: Path, text: Path, out: Path) -> None:
    document = read(params)
    torch.set_num_threads(block(document, "threads", Count))
    evaluation = block(document, "evaluate", Evaluation)
    attack = component(document, "attacks", attack_name)
    clip_model = clip.create(block(document, "model.arch", str), checkpoint)
    for name in block(document, "data.sets", dict[str, SetSize]):
        test, embedded = sets / name / "test.safetensors", text / f"{name}.safetensors"
        tensors, facts = storage.load_tensors(embedded)
        if facts["images"] != storage.digest(test):
            raise StudyError(f"{embedded} was made for other images than {test}; run dvc repro text_embeddings")
        model = Classifier(clip_model, tensors["text_embeddings"])
        split = Split.load(test)
        inputs = storage.digest(checkpoint, embedded, storage.code_digest(), repr((attack, evaluation.seed)))
        cell = {"method": method, "attack": attack_name, "set_name": name}
        stated = protocol(model, attack, split.images.shape[1], facts["template"], evaluation.seed)
        blank = Record(**cell, fingerprint=inputs, protocol=stated)
        kept = scratch("evaluate", method, attack_name, f"{name}-{inputs}.json")
        with storage.claimed(kept):
            watch = progress(f"{method} {attack_name} {name}", "batch")
            evaluate(model, attack, split, blank, evaluation, kept, watch).save(out / f"{name}.json")


if __name__ == "__main__":
    main()
