"""Judge one run of the transfer study, without an attack and at every eps of the grid, once for each seed."""

from pathlib import Path

import click
import torch

from stages.command import EXISTING, WRITTEN, progress, scratch, stage
from zsr import storage
from zsr.data.split import Split, digest
from zsr.evaluate import Evaluation, attacks_run, evaluate, protocol
from zsr.models.backbones import Backbone
from zsr.models.numerics import Compute
from zsr.params import Count, block, component, read
from zsr.records import Record
from zsr.transfer_params import Grid, Sets


@stage
@click.argument("name")
@click.option("--towers", type=EXISTING, required=True, help="Folder of one file of weights per seed.")
@click.option("--target", type=EXISTING, required=True, help="Test split of the target set.")
@click.option("--out", type=WRITTEN, required=True, help="Folder: seed, one record per eps in 1/255.")
def main(name: str, params: Path, towers: Path, target: Path, out: Path) -> None:
    document = read(params)
    torch.set_num_threads(block(document, "threads", Count))
    grid, evaluation = block(document, "grid", Grid), block(document, "evaluate", Evaluation)
    backbone, compute = block(document, "backbone", Backbone), block(document, "compute", Compute)
    split, set_name = Split.load(target), block(document, "data", Sets).target
    attacks = grid.attacks(component(document, "attacks", grid.attack))
    for tower in sorted(towers.iterdir(), key=lambda path: int(path.stem)):
        model, seed = backbone.load(tower).to(compute.place()), int(tower.stem)
        weights = storage.digest(tower, digest(target), storage.computer_digest())
        for eps, attack in attacks.items():
            inputs = storage.digest(weights, repr((attack, evaluation, seed, compute)))
            facts = {
                "protocol": protocol(model, attack, split.images.shape[1], "final weights", evaluation),
                "attacks_run": attacks_run(attack, grid.attack, len(split.classnames)),
                "counted": evaluation.counted,
            }
            blank = Record(method=name, seed=seed, attack=grid.attack, set_name=set_name, fingerprint=inputs, **facts)
            kept, watch = scratch("verdicts", f"{inputs}.json"), progress(f"{name} {seed} eps {eps}/255", "batch")
            with storage.claimed(kept):
                record = evaluate(model, attack, split, blank, evaluation, kept, watch, device=compute.place())
            record.save(out / tower.stem / f"{eps}.json")


if __name__ == "__main__":
    main()
