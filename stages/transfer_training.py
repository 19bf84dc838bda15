"""One run of the transfer study, once for each seed: a start with a new head, trained on the target set by a method."""

from pathlib import Path

import click
import torch

from stages.command import EXISTING, WRITTEN, stage
from stages.plain_training import Lesson, learnt
from zsr import storage
from zsr.batches import mix
from zsr.data.split import Split
from zsr.finetune import FineTuning, mean_curve
from zsr.models import backbones
from zsr.models.backbones import Backbone
from zsr.models.numerics import Compute
from zsr.params import Count, Natural, block, component, read, training_of
from zsr.train import COLUMNS
from zsr.transfer_params import Trained


@stage
@click.argument("name")
@click.option("--start", type=EXISTING, required=True, help="Folder of one file of weights per seed.")
@click.option("--target", type=EXISTING, required=True, help="Training split of the target set.")
@click.option("--out", type=WRITTEN, required=True, help="Folder of one file of weights per seed.")
@click.option("--curve", type=WRITTEN, required=True, help="Mean over the seeds.")
def main(name: str, params: Path, start: Path, target: Path, out: Path, curve: Path) -> None:
    document = read(params)
    torch.set_num_threads(block(document, "threads", Count))
    run = block(document, f"runs.{name}", Trained)
    backbone, compute = block(document, "backbone", Backbone), block(document, "compute", Compute)
    method, recipe = component(document, "methods", run.method), training_of(document, run.method, FineTuning)
    classes, curves = len(Split.load(target).classnames), []
    for seed in block(document, "seeds", tuple[Natural, ...]):
        model = backbones.with_new_head(backbone.load(start / f"{seed}.safetensors"), classes, mix(seed, 1))
        model, rows = learnt(model, backbone, Lesson(name, target, method, recipe, seed, compute))
        backbones.save(out / f"{seed}.safetensors", model)
        curves.append(rows)
    storage.write_rows(curve, mean_curve(curves), COLUMNS)


if __name__ == "__main__":
    main()
