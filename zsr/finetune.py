"""Adversarial fine-tuning of the image tower on the source set, by any method."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor, nn

from zsr.attacks._noise import Drawn, Noise
from zsr.attacks._steps import Steps
from zsr.batches import Part
from zsr.data.split import Split
from zsr.distributed import joint_rows, world_size
from zsr.effective_rate import effective_rate
from zsr.errors import StudyError
from zsr.feed import Feed
from zsr.methods._base import Batch, Method
from zsr.models.classifier import Classifier
from zsr.models.dual_norm import normalise_by
from zsr.models.numerics import ON_CPU, Compute, autocast, products
from zsr.models.plain import PlainClassifier
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
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"  # of the losses; maps are of tf32 tokens where it is bf16
    log_effective_rate: bool = False  # more columns of the curve; of a tower with BatchNorm

    def __post_init__(self):
        super().__post_init__()
        if self.attack.gradient_leak and self.accumulate > 1:
            raise ValueError("attack.gradient_leak needs accumulate: 1, or every part's attack leaks into the others")

    def observe(self, model: nn.Module) -> dict[str, float]:
        """What joins the rows of the curve besides the loss."""
        return effective_rate(model) if self.log_effective_rate else {}


@dataclass(frozen=True)
class Texts:
    """Prompts of the source set's C classes, (C, D), unit norm. non_class: of `Method.non_class_template`, or None.

    Without any it stands for the classes of a linear head.
    """

    text_embeddings: Tensor | None = None
    non_class: Tensor | None = None

    @classmethod
    def of(cls, method: Method, text_embeddings: Tensor, source: Split, embed: Callable) -> "Texts":
        """What the method needs. embed: prompts -> (C, D), called only where there is a second prompt."""
        template = method.non_class_template
        return cls(text_embeddings, embed(source.prompts(template)) if template else None)

    def to(self, device: torch.device) -> "Texts":
        return Texts(*(None if t is None else t.to(device) for t in (self.text_embeddings, self.non_class)))

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
    compute: Compute = ON_CPU,
) -> list[dict[str, float]]:
    """Train clip.visual in place; returns the curve, one row a step. Nothing else of the model moves.

    clip: an open_clip model, which ends on the device of `compute`. See `zsr.train.fit` for scratch, watch and errors.
    """
    if not method.trains:
        return []
    texts = texts.to(compute.place())
    frozen = _frozen(Classifier(copy.deepcopy(clip), texts.text_embeddings, compute))
    method.prepare(clip.visual)
    model = Classifier(clip, texts.text_embeddings, compute)
    return _trained(Pupil(method, model, frozen, clip.visual, texts), source, recipe, seed, scratch, watch)


def finetune_plain(
    method: Method,
    model: PlainClassifier,
    source: Split,
    recipe: FineTuning,
    seed: int,
    scratch: Path,
    watch: Watch = unwatched,
    compute: Compute = ON_CPU,
) -> list[dict[str, float]]:
    """Train the tower and the linear head of a model without text in place; returns the curve, as `finetune`.

    Raises StudyError for a method that needs text.
    """
    if method.needs_text:
        raise StudyError(f"{type(method).__name__} needs class prompts or patch tokens; a linear head has neither")
    model = model.to(compute.place())
    frozen = _frozen(copy.deepcopy(model))
    method.prepare(model.visual)
    return _trained(Pupil(method, model, frozen, model, Texts()), source, recipe, seed, scratch, watch)


@dataclass(frozen=True)
class Pupil:
    """A model, what of it is trained, and what its method looks at meanwhile."""

    method: Method
    model: Classifier | PlainClassifier
    frozen: Classifier | PlainClassifier
    trained: nn.Module
    texts: Texts

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def _trained(
    pupil: Pupil, source: Split, recipe: FineTuning, seed: int, scratch: Path, watch: Watch
) -> list[dict[str, float]]:
    method, model, device, attack = pupil.method, pupil.model, pupil.device, recipe.attack
    if attack.gradient_leak and world_size() > 1:
        raise StudyError("train.attack.gradient_leak needs one process; choose launcher: python, or gradient_leak: 0")
    normalise_by(model.visual, "batch")
    with products(device, recipe.precision):
        feed = Feed(source, recipe, attack, seed, device)
        anchors = anchors_of(method, pupil.frozen, pupil.texts, feed, recipe)

        def losses(step: int, part: Part) -> dict[str, Tensor]:
            fed = feed.take(step, part)
            rows = None if anchors is None else anchors[part.samples].to(device, non_blocking=True)
            batch = pupil.texts.batch(fed.images, fed.labels, rows)
            batch = replace(batch, joint=partial(joint_rows, counts=part.counts), nominal=recipe.batch_size)
            adv = _attacked(method, model, batch, attack, fed.noise) if method.attacked else None
            with autocast(device, recipe.precision):
                return method.losses(model, pupil.frozen, batch, adv)

        n, observe = len(source.ids), lambda _: recipe.observe(model.visual)
        rows = fit(pupil.trained, losses, n, recipe, seed, scratch, watch, method.fold, observe)
    normalise_by(model.visual, "running statistics")
    method.finish(model.visual)
    return rows


def _frozen(model: Classifier | PlainClassifier) -> Classifier | PlainClassifier:
    """The model as what stays behind. No dropout, but eval mode has attention kernels of its own, which round."""
    model.requires_grad_(False).train()
    normalise_by(model.visual, "running statistics")
    return model


def _attacked(
    method: Method, model: Classifier | PlainClassifier, batch: Batch, attack: TrainingAttack, noise: Noise | Drawn
) -> Tensor:
    """Adversarial images of a batch. The attack moves no running statistics; what follows uses those of the batch."""
    normalise_by(model.visual, "running statistics")
    adv = attack.maximise(method.inner_objective(model, batch), batch.images, noise)
    if attack.gradient_leak:  # otherwise gradients are those of the step's parts before this one
        _scale_gradients(model.visual, attack.gradient_leak)
    normalise_by(model.visual, "batch")
    return adv


@torch.no_grad()
def _scale_gradients(module: nn.Module, share: float) -> None:
    for p in module.parameters():
        if p.grad is not None:
            p.grad *= share


@torch.no_grad()
def anchors_of(method: Method, frozen: Classifier, texts: Texts, feed: Feed, recipe: FineTuning) -> Tensor | None:
    """The method's anchors of every sample, on the CPU; None: it has none.

    They are made in batches of the training's shape, so in its kernels, and in its precision.
    """
    rows, n, size = [], len(feed.source.ids), recipe.batch_size
    for samples in torch.arange(n).split(size):
        images, labels = feed.pictures(torch.cat([samples, samples.new_zeros(size - len(samples))]))
        with autocast(images.device, recipe.precision):
            anchors = method.anchors(frozen, texts.batch(images, labels))
        if anchors is None:
            return None
        rows.append(anchors[: len(samples)].float().cpu())
    return torch.cat(rows)


def mean_curve(curves: Sequence[Sequence[Mapping[str, str]]]) -> list[dict]:
    """The mean over seeds of every term, step by step, of curves as they were read from CSV."""
    return [
        {key: rows[0][key] if key in ("step", "lr") else fmean(float(row[key]) for row in rows) for key in rows[0]}
        for rows in zip(*curves, strict=True)
    ]
