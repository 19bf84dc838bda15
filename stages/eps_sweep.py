"""Accuracy of every method under a growing attack, on the first images of every set."""

from pathlib import Path
from typing import Any

import click
import torch

from stages.command import EXISTING, WRITTEN, progress, scratch, stage
from zsr import figures, storage
from zsr.data import prepared
from zsr.data.world import SetSize
from zsr.eps_sweep import EpsSweep, measure, note
from zsr.models import clip
from zsr.models.numerics import Compute
from zsr.params import Count, Natural, block, component, read, under_protocol


@stage
@click.option("--checkpoints", type=EXISTING, required=True, help="The first seed's is used.")
@click.option("--sets", type=EXISTING, required=True)
@click.option("--text", type=EXISTING, required=True)
@click.option("--measured", type=WRITTEN, required=True)
@click.option("--out", type=WRITTEN, required=True)
def main(params: Path, checkpoints: Path, sets: Path, text: Path, measured: Path, out: Path) -> None:
    document = under_protocol(read(params))
    torch.set_num_threads(block(document, "threads", Count))
    wanted, seed = block(document, "eps_sweep", EpsSweep), block(document, "evaluate.seed", Natural)
    attack, arch = component(document, "attacks", wanted.attack), block(document, "model.arch", str)
    data = {name: prepared.load(sets, text, name) for name in block(document, "data.sets", dict[str, SetSize])}
    compute = block(document, "compute", Compute)
    facts = repr((wanted, attack, seed, list(data), compute))
    inputs = [*(of.inputs for of in data.values()), storage.computer_digest(), facts]
    rows, methods = [], list(block(document, "methods", dict[str, Any]))
    for method in progress("eps sweep", "method")(methods, 0):
        checkpoint, *_ = sorted((checkpoints / method).iterdir(), key=lambda path: int(path.stem))
        kept = scratch("eps_sweep", storage.digest(checkpoint, *inputs))
        with storage.claimed(kept):
            if not kept.exists():
                storage.write_json(kept, measure(clip.create(arch, checkpoint), attack, data, wanted, seed, compute))
            rows += [{"method": method} | row for row in storage.read_json(kept)]
    storage.write_rows(measured, rows)
    figures.eps_sweep(out, storage.read_rows(measured), f"{block(document, 'name', str)}: {note(wanted, attack)}")


if __name__ == "__main__":
    main()
