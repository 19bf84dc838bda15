"""The one evaluation loop: attack, verdict, bits per image, resume."""

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from zsr.attacks._noise import Noise
from zsr.attacks._places import filled
from zsr.data.split import Split
from zsr.errors import StudyError
from zsr.models.classifier import Classifier
from zsr.params import Count, Natural
from zsr.records import TOTALS, Record
from zsr.sentinels import inspect
from zsr.watch import Watch, unwatched

ROUNDING = 1e-6  # of pixels in [0, 1], fp32
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
INSPECTED = 8  # images on which a model is looked at before it is attacked


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    seed: Natural  # of the attacks' noise
    batch_size: Count  # of the model's passes; changes rounding alone, since noise belongs to the image
    save_every: Count  # batches of images between partial records; among them a place that one leaves is taken again
    workers: Count = 1  # sets at a time, each with its share of the threads
    protocol: str = "trusted"  # of protocols: what it says there replaces values of evaluate and of attacks
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of every pass, also that of the verdict; autocast if not fp32
    counted: Literal["both", "adv"] = "both"  # images right without and with the attack, or with it whatever before


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Values of `evaluate` and of blocks of `attacks` that belong together."""

    evaluate: dict[str, Any] = field(default_factory=dict)
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)


class Meter:
    """A classifier that counts its passes and looks at the gradients that flow back, without the attack's knowing.

    images: those attacked. An attack may give any of them in any order, moved inside their balls: an image is the
    nearest of those attacked.
    """

    def __init__(self, model: Classifier, images: Tensor, precision: str = "fp32"):
        self.model, self.images, self.precision = model, images, precision
        self.forwards = self.gradients = self.zero_pixels = self.pixels = 0
        self.zero, self.broken = (torch.zeros(len(images), dtype=torch.bool, device=images.device) for _ in range(2))

    def __call__(self, images: Tensor) -> Tensor:
        half = self.precision != "fp32"  # an attack may have an autocast of its own, which is left alone
        with torch.autocast(images.device.type, HALF[self.precision]) if half else nullcontext():
            logits = self.model(images).float()
        if images.requires_grad and torch.is_grad_enabled():
            if not logits.requires_grad:
                raise StudyError("no gradient reaches the pixels: the model's forward is detached from its input")
            self.gradients += len(images)
            images.register_hook(partial(self._look, images.detach()))
        else:
            self.forwards += len(images)
        self._note(self.broken, ~logits.isfinite().all(dim=1), images.detach())
        return logits

    def totals(self) -> dict[str, int]:
        return {name: int(getattr(self, name)) for name in TOTALS}

    def _look(self, images: Tensor, gradient: Tensor) -> None:
        zeros = (gradient == 0).flatten(1)
        some = ~zeros.all(dim=1)
        self.zero_pixels = self.zero_pixels + (zeros & some[:, None]).sum()
        self.pixels = self.pixels + some.sum() * zeros.shape[1]
        self._note(self.zero, ~some, images)
        self._note(self.broken, ~gradient.isfinite().flatten(1).all(dim=1), images)

    def _note(self, bits: Tensor, rows: Tensor, images: Tensor) -> None:
        if rows.any():
            moved = torch.cdist(images[rows].flatten(1), self.images.flatten(1), p=torch.inf)
            bits[moved.nan_to_num(torch.inf).argmin(dim=1)] = True


def protocol(model: Classifier, attack, image_size: int, template: str, evaluation: Evaluation) -> str:
    """The facts that travel with every number."""
    passes = (
        "the model in fp32 where the attack does not say otherwise"
        if evaluation.precision == "fp32"
        else f"every pass, also of the attack, in {evaluation.precision} autocast"
    )
    counted = "right without and with the attack" if evaluation.counted == "both" else "right with the attack"
    return (
        f"{attack.protocol()}; acts at {image_size} px; noise seed {evaluation.seed}; batches of "
        f"{evaluation.batch_size}; logit scale {model.logit_scale.item():.4g}; prompt '{template}'; {passes}; "
        f"counts images {counted}"
    )


def attacks_run(attack, name: str, n_classes: int) -> tuple[str, ...]:
    """The attacks behind a name, which some shorten for few classes; one that is made of no others is itself."""
    return attack.attacks_run(n_classes) if hasattr(attack, "attacks_run") else (name,)


def evaluate(
    model: Classifier,
    attack,
    split: Split,
    blank: Record,
    evaluation: Evaluation,
    scratch: Path,
    watch: Watch = unwatched,
) -> Record:
    """The record of a whole split, continuing the one in `scratch`, where it is kept while it grows and after.

    blank: a record without bits that names the cell. A kept record of another fingerprint, or of other images, is
    refused: the evaluation begins anew. A model is looked at before it is attacked; what is wrong with it goes into
    the record as marks.
    """
    record = _kept(scratch, blank, split)
    model.eval().requires_grad_(False)
    if not record.ids and attack.eps:
        images, labels, _ = split.tensors(range(min(INSPECTED, len(split.ids))))
        record = replace(record, marks=inspect(model, images, labels))
    step = evaluation.batch_size * evaluation.save_every
    done, n = len(record.ids), len(split.ids)
    for start in watch(range(done, n, step), done):
        record = _extended(record, model, attack, split, range(start, min(start + step, n)), evaluation)
        record.save(scratch)
    return record


def _kept(scratch: Path, blank: Record, split: Split) -> Record:
    if scratch.exists():
        record = Record.load(scratch)
        if record.fingerprint == blank.fingerprint and record.ids == tuple(split.ids[: len(record.ids)].tolist()):
            return replace(record, method=blank.method)
    return blank


def _extended(record: Record, model: Classifier, attack, split: Split, rows: range, evaluation: Evaluation) -> Record:
    """The record with the verdicts of some more rows of the split."""
    images, labels, ids = split.tensors(rows)
    meter, size = Meter(model, images, evaluation.precision), evaluation.batch_size
    adv = attack(meter, images, labels, Noise(evaluation.seed, record.set_name, ids), size)
    whole = adv.isfinite().flatten(1).all(dim=1)
    adv = torch.where(whole[:, None, None, None], adv, images)  # where a gradient has spoilt it the attack has failed
    _check_ball(adv, images, attack)
    (clean, clean_finite), (robust, finite) = (_verdicts(meter, x, labels, size) for x in (images, adv))
    clean = clean & clean_finite
    bits = {"clean_bits": clean, "adv_bits": torch.where(finite, robust, clean)}
    bits |= {"zero_bits": meter.zero, "broken_bits": meter.broken | ~whole}
    return replace(
        record,
        ids=record.ids + tuple(ids),
        **{name: getattr(record, name) + tuple(of_rows.tolist()) for name, of_rows in bits.items()},
        **{name: getattr(record, name) + total for name, total in meter.totals().items()},
    )


@torch.no_grad()
def _verdicts(model: Meter, images: Tensor, labels: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Is the answer right, and is it one at all? (N,), (N,)."""
    parts = [model(images[rows]) for rows in filled(len(images), batch_size, images.device)]
    logits = torch.cat(parts)[: len(images)]
    return logits.argmax(dim=1) == labels, logits.isfinite().all(dim=1)


def _check_ball(adv: Tensor, images: Tensor, attack) -> None:
    order = 2 if getattr(attack, "norm", "linf") == "l2" else torch.inf
    assert (adv - images).flatten(1).norm(p=order, dim=1).max() <= attack.eps + ROUNDING, "the attack left its ball"
    assert adv.min() >= 0 and adv.max() <= 1, "the attack left the range of pixels"
