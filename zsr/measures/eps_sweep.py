"""Robust accuracy against eps: down to about zero, or the attack, not the model, is what stops it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from zsr.data.prepared import Prepared
from zsr.evaluation.evaluate import Evaluation
from zsr.models import heads
from zsr.models.classifier import PixelClassifier
from zsr.models.heads import Model
from zsr.models.passes import Compute, matmul_precision, predict
from zsr.noise import Noise
from zsr.params import Count, PixelRange


@dataclass(frozen=True, kw_only=True)
class EpsSweep:
    """A block of `eps_sweep` in params.yaml, which bears the name of the attack; its step keeps its share of eps.

    Attributes:
        eps: radii of the balls, each larger than the one before, in units of the pixel range [0, 1].
        images: how many of each set, the first.
    """

    eps: tuple[PixelRange, ...]
    images: Count

    def __post_init__(self) -> None:
        if not self.eps or list(self.eps) != sorted(set(self.eps)):
            raise ValueError(f"eps must be at least one number, each larger than the one before, got {list(self.eps)}")


@dataclass(frozen=True, kw_only=True)
class SweepTask:
    """All that the sweep of one model is computed from, and the key of its kept work.

    Attributes:
        attack: with its numbers; it has a step_size.
        sweep: the radii, and how many images.
        evaluation: seed and batches.
        model: the architecture.
        compute: where it runs.
        threads: of the CPU.
        weights: the model's file.
        sets: name, file of the test images and file of the text embeddings of every set.
    """

    attack: Any
    sweep: EpsSweep
    evaluation: Evaluation
    model: Model
    compute: Compute
    threads: int
    weights: Path
    sets: tuple[tuple[str, Path, Path], ...]


def note(name: str, sweep: EpsSweep, attack: Any) -> str:
    """What stands above the figure. name: of the attack."""
    size = f"steps {attack.step_size / attack.eps:g} eps"
    return f"{name}, {attack.n_iter} iterations, {size}, first {sweep.images} images of each set, one seed"


def measure(task: SweepTask, sets: Mapping[str, Prepared]) -> list[dict]:
    """One row per set and eps, eps 0 first: how many of n images are right, in fp32."""
    torch.set_num_threads(task.threads)
    rows, whole, device = [], heads.load(task.model, task.weights), task.compute.place()
    for name, of in sets.items():
        images, labels, ids = of.split.tensors(range(min(task.sweep.images, len(of.split.ids))), device)
        made = heads.classifier(task.model, whole, of.text_embeddings, task.compute)
        model = cast(PixelClassifier, made)  # a linear head lacks what only text has, which is not asked for
        noise, size = Noise(task.evaluation.seed, name, ids), task.evaluation.batch_size
        with matmul_precision(device, "fp32"):
            counts = sweep(model, task.attack, images, labels, noise, task.sweep.eps, size)
        rows += [{"set": name, "eps": f"{255 * eps:g}/255", "n": len(ids), "correct": n} for eps, n in counts.items()]
    return rows


def sweep(
    model: PixelClassifier,
    attack: Any,
    images: Tensor,
    labels: Tensor,
    noise: Noise,
    eps: Sequence[float],
    batch_size: int | None = None,
) -> dict[float, int]:
    """How many of the images are still right at each eps, 0 first: (B, 3, H, W), (B,) -> {eps: count}.

    Balls are nested, so an image that is fooled at one eps is fooled at every larger one and not attacked again: the
    counts never rise. attack: a dataclass with eps and step_size. batch_size: of the model's passes; None: all images.
    """
    model.eval().requires_grad_(False)
    left = _right(model, images, labels, batch_size).nonzero().squeeze(1)
    counts = {0.0: len(left)}
    for radius in eps:
        if len(left):
            step_size = radius * attack.step_size / attack.eps
            stretched = replace(attack, eps=radius, step_size=step_size)
            adv = stretched(model, images[left], labels[left], noise.take(left), batch_size)
            left = left[_right(model, adv, labels[left], batch_size)]
        counts[radius] = len(left)
    return counts


def _right(model: PixelClassifier, images: Tensor, labels: Tensor, batch_size: int | None) -> Tensor:
    size = batch_size and min(batch_size, len(images))  # a batch is filled up, which few images need not be
    return predict(model, images, size).argmax(dim=1) == labels
