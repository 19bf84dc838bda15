"""Adversarial fine-tuning of the image tower on the source set, by any method."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from zsr.attacks._noise import Noise
from zsr.attacks._steps import Steps
from zsr.data.split import Split
from zsr.methods._base import Batch, Method
from zsr.models.classifier import Classifier
from zsr.params import NonNegative
from zsr.train import Recipe, fit
from zsr.watch import Watch, unwatched


@dataclass(frozen=True, kw_only=True)
class TrainingAttack(Steps):
    """PGD's last point, and what the published training loops do beside it."""

    fixed_noise: bool  # the same start in every step, by the place in the batch (quirk C3)
    gradient_leak: NonNegative  # share of the attack's parameter gradients that joins the step's (quirk S1)

    def ascent(self, objective, adv):
        """With a leak the parameters' .grad gather those of the mean objective, as the published backward() does."""
        if not self.gradient_leak:
            return super().ascent(objective, adv)
        total = self.reduced(objective, adv)
        (total if self.reduction == "mean" else total / len(adv)).backward()
        return adv.grad


@dataclass(frozen=True, kw_only=True)
class FineTuning(Recipe):
    attack: TrainingAttack  # of every adversarial method


@dataclass(frozen=True)
class Texts:
    """Prompts of the source set's C classes, (C, D), unit norm. non_class: of `Method.non_class_template`, or None."""

    text_embeddings: Tensor
    non_class: Tensor | None = None

    @classmethod
    def of(cls, method: Method, text_embeddings: Tensor, source: Split, embed: Callable) -> "Texts":
        """What the method needs. embed: prompts -> (C, D), called only where there is a second prompt."""
        template = method.non_class_template
        return cls(text_embeddings, embed(source.prompts(template)) if template else None)

    def batch(self, images: Tensor, labels: Tensor, anchors: Tensor | None = None) -> Batch:
        """A batch with the rows of its labels."""
        return Batch(images, labels, anchors, None if self.non_class is None else self.non_class[labels])


def finetune(
    method: Method,
    clip: nn.Module,
    texts: Texts,
    source: Split,
    recipe: FineTuning,
    seed: int,
    scratch: Path,
    watch: Watch = unwatched,
) -> list[dict[str, float]]:
    """Train clip.visual in place; returns the curve, one row a step. Nothing else of the model moves.

    clip: an open_clip model. See `zsr.train.fit` for scratch, watch and errors.
    """
    if not method.trains:
        return []
    frozen = Classifier(copy.deepcopy(clip), texts.text_embeddings).requires_grad_(False)
    frozen.train()  # there is no dropout; but eval mode has attention kernels of its own, which round otherwise
    model = Classifier(clip, texts.text_embeddings)
    pixels = torch.from_numpy(source.images).permute(0, 3, 1, 2)
    labels = torch.from_numpy(source.labels)
    anchors = anchors_of(method, frozen, texts, pixels, labels, recipe.batch_size)

    def losses(step: int, samples: Tensor) -> dict[str, Tensor]:
        rows = None if anchors is None else anchors[samples]
        batch = texts.batch(_images(pixels[samples]), labels[samples], rows)
        adv = None
        if method.attacked:
            noise = Noise(seed, f"train step {step}", source.ids[samples].tolist())
            if recipe.attack.fixed_noise:
                noise = Noise(seed, "train", range(len(samples)))
            adv = recipe.attack.maximise(method.inner_objective(model, batch), batch.images, noise)
            _scale_gradients(model.visual, recipe.attack.gradient_leak)
        return method.losses(model, frozen, batch, adv)

    return fit(model.visual, losses, len(labels), recipe, seed, scratch, watch)


@torch.no_grad()
def _scale_gradients(module: nn.Module, share: float) -> None:
    for p in module.parameters():
        if p.grad is not None:
            p.grad *= share


@torch.no_grad()
def anchors_of(
    method: Method, frozen: Classifier, texts: Texts, pixels: Tensor, labels: Tensor, batch_size: int
) -> Tensor | None:
    """The method's anchors of every sample, in batches of the training's shape, so in its kernels; None: no anchors.

    pixels: (N, 3, H, W) uint8. labels: (N,).
    """
    rows = []
    for samples in torch.arange(len(labels)).split(batch_size):
        padded = torch.cat([samples, samples.new_zeros(batch_size - len(samples))])
        anchors = method.anchors(frozen, texts.batch(_images(pixels[padded]), labels[padded]))
        if anchors is None:
            return None
        rows.append(anchors[: len(samples)])
    return torch.cat(rows)


def _images(pixels: Tensor) -> Tensor:
    return pixels.float() / 255


def mean_curve(curves: Sequence[Sequence[Mapping[str, str]]]) -> list[dict]:
    """The mean over seeds of every term, step by step, of curves as they were read from CSV."""
    return [
        {key: rows[0][key] if key in ("step", "lr") else fmean(float(row[key]) for row in rows) for key in rows[0]}
        for rows in zip(*curves, strict=True)
    ]
