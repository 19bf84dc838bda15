"""Robust accuracy against eps. The accuracy must fall to about zero; otherwise the attack is too weak."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from zsr.attacks.batch import Noise
from zsr.compute import Compute, matmul_precision
from zsr.data.prepared import Prepared
from zsr.evaluation.evaluate import Evaluation
from zsr.models import heads
from zsr.models.heads import Model, PixelClassifier
from zsr.models.passes import predict
from zsr.params import Count, PixelRange


@dataclass(frozen=True, kw_only=True)
class EpsSweep:
    """A block of `eps_sweep` in params.yaml. The key is the name of the attack, whose step keeps its share of eps.

    Attributes:
        eps: radii of the balls in increasing order, in units of the pixel range [0, 1].
        images: number of images of each set, the first images.
    """

    eps: tuple[PixelRange, ...]
    images: Count

    def __post_init__(self) -> None:
        if not self.eps or list(self.eps) != sorted(set(self.eps)):
            raise ValueError(f"eps must be at least one number, each larger than the one before, got {list(self.eps)}")


@dataclass(frozen=True, kw_only=True)
class SweepTask:
    """All inputs of the sweep of one model, which make the key of its kept work.

    Attributes:
        attack: the attack with its hyper-parameters, step_size among them.
        sweep: the radii and the number of images.
        evaluation: seed and batches.
        model: the architecture.
        compute: where the model runs.
        threads: number of CPU threads.
        weights: the file of the model.
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
    """The text above the figure. name: the name of the attack."""
    size = f"steps {attack.step_size / attack.eps:g} eps"
    return f"{name}, {attack.n_iter} iterations, {size}, first {sweep.images} images of each set, one seed"


def measure(task: SweepTask, sets: Mapping[str, Prepared]) -> list[dict]:
    """One row per set and eps, eps 0 first: the number of images that are right out of n, in fp32."""
    torch.set_num_threads(task.threads)
    rows, whole, device = [], heads.load(task.model, task.weights), task.compute.place()
    for name, prepared_set in sets.items():
        images, labels, ids = prepared_set.split.tensors(
            range(min(task.sweep.images, len(prepared_set.split.ids))), device
        )
        made = heads.classifier(task.model, whole, prepared_set.text_embeddings, task.compute)
        model = cast(PixelClassifier, made)  # a linear head lacks the text attributes, which are not used here
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
    """The number of images that are still right at each eps, 0 first: (B, 3, H, W), (B,) -> {eps: count}.

    Balls are nested. An image that is fooled at one eps counts as fooled at every larger eps, and is not attacked
    again: the counts never rise. attack: a dataclass with eps and step_size. batch_size: the batch size of the model's
    passes; None: all images.
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
    size = batch_size and min(batch_size, len(images))  # batches are filled up, which few images do not need
    return predict(model, images, size).argmax(dim=1) == labels
