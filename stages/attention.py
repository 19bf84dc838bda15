"""Attention maps of clean and attacked images under every method: the figure, and what was measured."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from stages.command import EXISTING, WRITTEN, stage
from zsr import attention_study, figures, storage
from zsr.attacks._noise import Noise
from zsr.attacks._sign_attack import SignAttack
from zsr.attention_study import AttentionStudy
from zsr.data import prepared
from zsr.models import clip
from zsr.models.classifier import Classifier
from zsr.models.numerics import Compute
from zsr.params import Count, Natural, block, component, read


@stage
@click.option("--checkpoints", type=EXISTING, required=True)
@click.option("--sets", type=EXISTING, required=True)
@click.option("--text", type=EXISTING, required=True)
@click.option("--measured", type=WRITTEN, required=True)
@click.option("--out", type=WRITTEN, required=True)
def main(params: Path, checkpoints: Path, sets: Path, text: Path, measured: Path, out: Path) -> None:
    document = read(params)
    torch.set_num_threads(block(document, "threads", Count))
    wanted = block(document, "attention", AttentionStudy)
    attack, seed = component(document, "attacks", wanted.attack), block(document, "evaluate.seed", Natural)
    if isinstance(attack, SignAttack):
        attack = replace(attack, success="last")  # maps are of images that are attacked to the end
    data = prepared.load(sets, text, wanted.set)
    compute = block(document, "compute", Compute)
    images, labels, ids = data.split.tensors(range(wanted.images), compute.place())
    arch, maps, rows = block(document, "model.arch", str), {}, []
    for method in block(document, "methods", dict[str, Any]):
        checkpoint = min((checkpoints / method).iterdir(), key=lambda path: int(path.stem))
        model = Classifier(clip.create(arch, checkpoint), data.text_embeddings, compute)
        maps[method], facts = attention_study.measure(model, attack, images, labels, Noise(seed, wanted.set, ids))
        rows.append({"method": method} | {name: round(value, 3) for name, value in facts.items()})
    storage.write_rows(measured, rows)
    shown = attention_study.panels(images.cpu(), maps, rows, wanted.columns)
    figures.attention(out, *shown, f"{block(document, 'name', str)}: {figures.ATTENTION_NOTE}")


if __name__ == "__main__":
    main()
