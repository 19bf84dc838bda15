"""One start of the transfer study, once for each seed: random weights or a file's, trained on the source set."""

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
from zsr.params import Count, Natural, block, component, read
from zsr.train import COLUMNS
from zsr.transfer_params import Start, recipe_of


@stage
@click.argument("name")
@click.option("--source", type=EXISTING, required=True, help="Training split of the source set.")
@click.option("--out", type=WRITTEN, required=True, help="Folder of one file of weights per seed.")
@click.option("--curve", type=WRITTEN, required=True, help="Mean over the seeds.")
def main(name: str, params: Path, source: Path, out: Path, curve: Path) -> None:
    document = read(params)
    torch.set_num_threads(block(document, "threads", Count))
    start, recipe = block(document, f"starts.{name}", Start), recipe_of(document, name, FineTuning)
    backbone, compute = block(document, "backbone", Backbone), block(document, "compute", Compute)
    method, classes, curves = component(document, "methods", start.method), len(Split.load(source).classnames), []
    for seed in block(document, "seeds", tuple[Natural, ...]):
        if start.file:
            model = backbone.from_file(Path(start.file), start.sha256)
            model = backbones.with_new_head(model, classes, mix(seed)) if recipe.epochs else model
        else:
            model = backbone.random(classes, mix(seed))
        model, rows = learnt(model, backbone, Lesson(name, source, method, recipe, seed, compute))
        backbones.save(out / f"{seed}.safetensors", model)
        curves.append(rows)
    storage.write_rows(curve, mean_curve(curves), COLUMNS)


if __name__ == "__main__":
    main()
