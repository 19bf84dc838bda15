"""What a step of an attack costs in forwards of the image tower, by number of classes:

python -m benchmarks.attack_cost
python -m benchmarks.attack_cost --arch ViT-B-32-quickgelu --batch-size 4

Counted floating-point operations and seconds, each over those of one forward without gradients of the same batch, CLS
and patches through all blocks. The weights are random, which changes neither.
"""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import torch
from tabulate import tabulate
from torch.nn import functional as F

from benchmarks.step_cost import Meter, forward_cost
from zsr.attacks.batch import Noise
from zsr.cli.running import OneLine
from zsr.data.sources import make
from zsr.models import clip
from zsr.models.clip import Classifier
from zsr.params import Count, block, component, read

STEPS = 10
CLASSES = (3, 50, 1000)


@click.command(cls=OneLine)
@click.option("--arch", help="Of open_clip, with random weights; without it model.arch of params.yaml.")
@click.option("--batch-size", type=int, help="Without it evaluate.batch_size.")
def main(arch: str | None, batch_size: int | None) -> None:
    document = read(Path("params.yaml"))
    torch.set_num_threads(block(document, "threads", Count))
    size, arch = batch_size or block(document, "evaluate.batch_size", Count), arch or document["model"]["arch"]
    model = clip.create(arch)
    split = make(document["data"]["source"], "test", size, 0, model.visual.image_size[0])
    images, _, ids = split.tensors(range(size))
    rows, unit = [], None
    for n_classes in CLASSES:
        texts = F.normalize(torch.randn(n_classes, model.visual.output_dim), dim=1)
        classifier = Classifier(model, texts).requires_grad_(False).train()  # see forward_cost
        unit = unit or forward_cost(classifier, images)
        labels = torch.arange(size) % n_classes
        for name in ("pgd", "cw"):
            attack = replace(component(document, "attacks", name), n_iter=STEPS, success="last")
            operations, seconds = _cost(partial(attack, classifier, images, labels, Noise(0, "cost", ids)))
            rows.append([name, n_classes, f"{operations / STEPS / unit[0]:.2f}", f"{seconds / STEPS / unit[1]:.2f}"])
    click.echo(f"{arch}, batch {size}; a forward takes {unit[1]:.3f} s")
    header = ["attack", "classes", "operations / forward", "seconds / forward"]
    click.echo(tabulate(rows, header, "github", disable_numparse=True))


def _cost(work) -> tuple[float, float]:
    with Meter() as meter:
        work()
    start = time.perf_counter()
    work()
    return meter.operations, time.perf_counter() - start


if __name__ == "__main__":
    main()
