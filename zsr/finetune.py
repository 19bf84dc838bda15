"""Adversarial fine-tuning of the image tower on the source set, by any method."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from zsr.attacks._noise import Noise
from zsr.attacks.pgd import PGD
from zsr.data.split import Split
from zsr.methods._base import Batch, Method
from zsr.models.classifier import Classifier
from zsr.train import Recipe, fit
from zsr.watch import Watch, unwatched


@dataclass(frozen=True, kw_only=True)
class FineTuning(Recipe):
    attack: PGD  # the training attack of every adversarial method


def finetune(
    method: Method,
    clip: nn.Module,
    text_embeddings: Tensor,
    source: Split,
    recipe: FineTuning,
    scratch: Path,
    watch: Watch = unwatched,
) -> list[dict[str, float]]:
    """Train clip.visual in place; returns the curve, one row a step. Nothing else of the model moves.

    clip: an open_clip model. text_embeddings: (C, D) of the source set. See `zsr.train.fit` for scratch, watch
    and errors.
    """
    if not method.trains:
        return []
    frozen = Classifier(copy.deepcopy(clip), text_embeddings).requires_grad_(False)
    frozen.train()  # there is no dropout; but eval mode has attention kernels of its own, which round otherwise
    model = Classifier(clip, text_embeddings)
    pixels = torch.from_numpy(source.images).permute(0, 3, 1, 2)
    labels = torch.from_numpy(source.labels)
    anchors = _anchors(method, frozen, pixels, labels, recipe.batch_size)

    def losses(step: int, samples: Tensor) -> dict[str, Tensor]:
        batch = Batch(_images(pixels[samples]), labels[samples], None if anchors is None else anchors[samples])
        adv = None
        if method.attacked:
            noise = Noise(recipe.seed, f"train step {step}", source.ids[samples].tolist())
            adv = recipe.attack.maximise(method.inner_objective(model, batch), batch.images, noise)
        return method.losses(model, frozen, batch, adv)

    return fit(model.visual, losses, len(labels), recipe, scratch, watch)


@torch.no_grad()
def _anchors(method: Method, frozen: Classifier, pixels: Tensor, labels: Tensor, batch_size: int) -> Tensor | None:
    """The method's anchors of every sample, in batches of the training's shape, so in its kernels; None: no anchors."""
    rows = []
    for samples in torch.arange(len(labels)).split(batch_size):
        padded = torch.cat([samples, samples.new_zeros(batch_size - len(samples))])
        anchors = method.anchors(frozen, _images(pixels[padded]), labels[padded])
        if anchors is None:
            return None
        rows.append(anchors[: len(samples)])
    return torch.cat(rows)


def _images(pixels: Tensor) -> Tensor:
    return pixels.float() / 255
