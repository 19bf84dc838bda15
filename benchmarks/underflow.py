"""What an unscaled fp16 gradient loses, by batch size: python -m benchmarks.underflow

The published PGD averages its loss over the batch inside fp16 autocast, without loss scaling. A pixel whose gradient is
exactly zero stays where the random start put it. Taken on the base model that `dvc repro` left and drawn pictures of
the source set; where there is none, or with --fitted, on a random tower whose prompts are fitted to the pictures.
"""

from dataclasses import replace
from pathlib import Path

import click
import torch
from tabulate import tabulate
from torch.nn import functional as F

from zsr.attacks.pgd import PGD
from zsr.cli.running import OneLine
from zsr.data.prepared import Split
from zsr.data.sources import make
from zsr.files import load_tensors
from zsr.models import clip
from zsr.models.clip import Classifier
from zsr.models.passes import cross_entropy
from zsr.params import Count, block, component, read

SIZES = (64, 128, 256, 512)
CONFIDENT = 10.0  # the mean lead of the true class that a fitted model is scaled to


@click.command(cls=OneLine)
@click.option("--fitted", is_flag=True, help="Take the fitted tower although there is a base model.")
def main(fitted: bool) -> None:
    """Shares of pixels, and of images, whose gradient is exactly zero: the same pictures at every batch size."""
    document = read(Path("params.yaml"))
    torch.set_num_threads(block(document, "threads", Count))
    source, base = document["data"]["source"], Path("data/base_model/0.safetensors")
    split = make(source, "test", max(SIZES), document["data"]["seed"], document["data"]["image_size"])
    fitted = fitted or not base.exists()
    model = _fitted(document, split) if fitted else _base(document, base, source)
    model.eval().requires_grad_(False)
    images, labels, _ = split.tensors(range(max(SIZES)))
    with torch.no_grad():
        sure = model(images).softmax(dim=1).gather(1, labels[:, None]).median()
    attack = component(document, "attacks", "pgd")
    rows = [
        [
            precision,
            reduction,
            size,
            *_shares(model, attack, images.split(size), labels.split(size), precision, reduction),
        ]
        for precision in ("fp32", "bf16", "fp16")
        for reduction in ("sum", "mean")
        for size in SIZES
    ]
    click.echo(f"{'a fitted tower' if fitted else base}, median probability of the true class {sure:.6f}\n")
    header = ["gradient", "loss", "batch", "zero pixels", "images all zero"]
    click.echo(tabulate(rows, header, "github", disable_numparse=True))


def _base(document: dict, base: Path, source: str) -> Classifier:
    text = load_tensors(Path("data/text_embeddings", f"{source}.safetensors"))[0]["text_embeddings"]
    return Classifier(clip.create(block(document, "model.arch", str), base), text)


def _fitted(document: dict, split: Split) -> Classifier:
    """Least squares from the features of a random tower to the classes; half of the pictures are new to it."""
    torch.manual_seed(0)
    tower, n = clip.create(block(document, "model.arch", str)), len(split.ids) // 2
    with torch.no_grad():
        tower.visual.positional_embedding.normal_(std=0.5)
        images, labels, _ = split.tensors(range(n))
        features = F.normalize(Classifier(tower, torch.eye(tower.visual.proj.shape[1])).image_features(images), dim=1)
        classes = F.one_hot(labels, len(split.classnames))
        fitted = torch.linalg.lstsq(features, classes - 1 / classes.shape[1]).solution
        model = Classifier(tower, F.normalize(fitted.T, dim=1))
        logits = model(images)
        own = logits.gather(1, labels[:, None])[:, 0]
        lead = own - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        model.logit_scale *= CONFIDENT / lead[lead > 0].mean()
    return model


def _shares(model: Classifier, attack: PGD, batches, labels, precision: str, reduction: str) -> tuple[str, str]:
    attack, zeros = replace(attack, precision=precision, reduction=reduction, success="last"), []
    for images, of in zip(batches, labels):
        adv = images.clone().requires_grad_()
        zeros.append((attack.ascent(lambda x, of=of: cross_entropy(model(x), of), adv) == 0).flatten(1))
    every = torch.cat(zeros)
    return f"{every.float().mean():.2%}", f"{every.all(dim=1).float().mean():.2%}"


if __name__ == "__main__":
    main()
