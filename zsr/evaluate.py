"""The one evaluation loop: attack, verdict in fp32, one bit per image, resume."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from zsr.attacks._noise import Noise
from zsr.data.split import Split
from zsr.errors import StudyError
from zsr.models.classifier import Classifier
from zsr.params import Count, Natural
from zsr.records import Record
from zsr.watch import Watch, unwatched

ROUNDING = 1e-6  # of pixels in [0, 1], fp32


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    seed: Natural  # of the attacks' noise
    batch_size: Count  # changes rounding alone: noise belongs to the image, and the last batch is filled up
    save_every: Count  # batches between partial records


class Meter:
    """A classifier that counts its passes: with a gradient to the pixels, and without."""

    def __init__(self, model: Classifier):
        self.model, self.gradients, self.forwards = model, 0, 0

    def __call__(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            self.gradients += 1
        else:
            self.forwards += 1
        return self.model(images)


def protocol(model: Classifier, attack, image_size: int, template: str, seed: int) -> str:
    """The facts that travel with every number."""
    return (
        f"{attack.protocol()}; acts at {image_size} px; noise seed {seed}; logit scale {model.logit_scale.item():.4g}; "
        f"prompt '{template}'; verdicts fp32"
    )


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

    blank: a record without bits that names the cell. A kept record of another fingerprint is not used.
    Raises StudyError where logits are not finite: no honest verdict exists.
    """
    record = _kept(scratch, blank)
    model.eval().requires_grad_(False)
    step = evaluation.batch_size
    done, n = len(record.ids), len(split.ids)
    for batch, start in enumerate(watch(range(done, n, step), done), start=1):
        record = _extended(record, model, attack, split, range(start, min(start + step, n)), evaluation)
        if batch % evaluation.save_every == 0:
            record.save(scratch)
    record.save(scratch)
    return record


def _kept(scratch: Path, blank: Record) -> Record:
    if scratch.exists():
        record = Record.load(scratch)
        if record.fingerprint == blank.fingerprint:
            return record
    return blank


def _extended(record: Record, model: Classifier, attack, split: Split, rows: range, evaluation: Evaluation) -> Record:
    """The record with the verdicts of some more rows of the split."""
    padded = list(rows) + [rows[0]] * (evaluation.batch_size - len(rows))  # one shape, hence the same kernels
    images, labels, ids = split.tensors(padded)
    meter = Meter(model)
    adv = attack(meter, images, labels, Noise(evaluation.seed, record.set_name, ids))
    _check_ball(adv, images, attack.eps)
    clean, robust = (_verdicts(meter, x, labels, record)[: len(rows)] for x in (images, adv))
    return replace(
        record,
        ids=record.ids + tuple(ids[: len(rows)]),
        clean_bits=record.clean_bits + tuple(clean),
        adv_bits=record.adv_bits + tuple(robust),
        forwards=record.forwards + meter.forwards * len(rows),
        gradients=record.gradients + meter.gradients * len(rows),
    )


@torch.no_grad()
def _verdicts(model: Meter, images: Tensor, labels: Tensor, record: Record) -> list[bool]:
    logits = model(images)
    if not logits.isfinite().all():
        raise StudyError(f"{record.method} under {record.attack} on {record.set_name}: logits are not finite")
    return (logits.argmax(dim=1) == labels).tolist()


def _check_ball(adv: Tensor, images: Tensor, eps: float) -> None:
    assert (adv - images).abs().max() <= eps + ROUNDING, "the attack left its ball"
    assert adv.min() >= 0 and adv.max() <= 1, "the attack left the range of pixels"
