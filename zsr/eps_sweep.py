"""Robust accuracy against eps: down to about zero, or the attack, not the model, is what stops it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from zsr.attacks._noise import Noise
from zsr.data.prepared import Prepared
from zsr.models.classifier import Classifier
from zsr.models.numerics import ON_CPU, Compute
from zsr.params import Count, PixelRange


@dataclass(frozen=True, kw_only=True)
class EpsSweep:
    attack: str  # of attacks; its step keeps its proportion to eps
    eps: tuple[PixelRange, ...]
    images: Count  # of each set, the first

    def __post_init__(self):
        if not self.eps or list(self.eps) != sorted(set(self.eps)):
            raise ValueError(f"eps must be at least one number, each larger than the one before, got {list(self.eps)}")


def note(wanted: EpsSweep, attack) -> str:
    """What stands above the figure."""
    size = f"steps {attack.step_size / attack.eps:g} eps"
    return f"{wanted.attack}, {attack.n_iter} iterations, {size}, first {wanted.images} images of each set, one seed"


def measure(
    clip: nn.Module, attack, sets: Mapping[str, Prepared], wanted: EpsSweep, seed: int, compute: Compute = ON_CPU
) -> list[dict]:
    """One row per set and eps, eps 0 first: how many of n images are right. clip: an open_clip model."""
    rows = []
    for name, of in sets.items():
        images, labels, ids = of.split.tensors(range(min(wanted.images, len(of.split.ids))), compute.place())
        model = Classifier(clip, of.text_embeddings, compute)
        counts = sweep(model, attack, images, labels, Noise(seed, name, ids), wanted.eps)
        rows += [{"set": name, "eps": f"{255 * eps:g}/255", "n": len(ids), "correct": n} for eps, n in counts.items()]
    return rows


def sweep(
    model: Classifier, attack, images: Tensor, labels: Tensor, noise: Noise, eps: Sequence[float]
) -> dict[float, int]:
    """How many of the images are still right at each eps, 0 first: (B, 3, H, W), (B,) -> {eps: count}.

    Balls are nested, so an image that is fooled at one eps is fooled at every larger one and not attacked again: the
    counts never rise. attack: a dataclass with eps and step_size.
    """
    model.eval().requires_grad_(False)
    left = _right(model, images, labels).nonzero().squeeze(1)
    counts = {0.0: len(left)}
    for radius in eps:
        if len(left):
            step_size = radius * attack.step_size / attack.eps
            stretched = replace(attack, eps=radius, step_size=step_size)
            adv = stretched(model, images[left], labels[left], noise.take(left))
            left = left[_right(model, adv, labels[left])]
        counts[radius] = len(left)
    return counts


@torch.no_grad()
def _right(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    return model(images).argmax(dim=1) == labels
