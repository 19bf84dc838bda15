"""One method under one attack on every set: one record per set, each kept as soon as it is done."""

from pathlib import Path

import click
import torch

from stages.command import EXISTING, WRITTEN, progress, scratch, stage
from zsr import storage
from zsr.data import prepared
from zsr.data.world import SetSize
from zsr.evaluate import Evaluation, evaluate, protocol
from zsr.models import clip
from zsr.models.classifier import Classifier
from zsr.params import Count, block, component, read
from zsr.records import Record


@stage
@click.argument("method")
@click.argument("attack_name")
@click.option("--checkpoints", type=EXISTING, required=True, help="Folder of one checkpoint per seed.")
@click.option("--sets", type=EXISTING, required=True)
@click.option("--text", type=EXISTING, required=True)
@click.option("--out", type=WRITTEN, required=True, help="Folder of one folder of records per seed.")
def main(method: str, attack_name: str, params: Path, checkpoints: Path, sets: Path, text: Path, out: Path) -> None:
    document = read(params)
    torch.set_num_threads(block(document, "threads", Count))
    evaluation = block(document, "evaluate", Evaluation)
    attack = component(document, "attacks", attack_name)
    names = block(document, "data.sets", dict[str, SetSize])
    loaded = {name: prepared.load(sets, text, name) for name in names}
    for checkpoint in sorted(checkpoints.glob("*.safetensors"), key=lambda path: int(path.stem)):
        clip_model = clip.create(block(document, "model.arch", str), checkpoint)
        for name, data in loaded.items():
            model = Classifier(clip_model, data.text_embeddings)
            settings = repr((attack, evaluation.seed, checkpoint.stem))
            inputs = storage.digest(checkpoint, data.embedded, storage.computer_digest(), settings)
            stated = protocol(model, attack, data.split.images.shape[1], data.template, evaluation.seed)
            cell = {"method": method, "seed": int(checkpoint.stem), "attack": attack_name, "set_name": name}
            blank = Record(**cell, fingerprint=inputs, protocol=stated)
            kept = scratch("evaluate", method, attack_name, f"{name}-{inputs}.json")
            with storage.claimed(kept):
                watch = progress(f"{method} {attack_name} {name}", "batch")
                record = evaluate(model, attack, data.split, blank, evaluation, kept, watch)
                record.save(out / checkpoint.stem / f"{name}.json")


if __name__ == "__main__":
    main()
