"""TWINS: a frozen and an adaptive wing share their convolutions, each sees half a batch. Liu et al., CVPR 2023.

The frozen wing normalises by the statistics of the tower that training starts from, which the paper wants
adversarially pre-trained. Attack and inference are the adaptive wing's, in eval mode.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from zsr.errors import ParamError
from zsr.methods._base import Method
from zsr.models.batchnorm import Affine, export_plain, flying, twinify
from zsr.params import NonNegative, nested_component

WINGS = {  # what the first and the second half of a batch are called, and the wing that sees them
    "both": {"frozen": "frozen", "adaptive": "adaptive"},
    "adaptive": {"first": "adaptive", "second": "adaptive"},
    "frozen": {"first": "frozen", "second": "frozen"},
}


TAKEN = ("needs_blocks", "needs_text", "non_class_template")  # from the base


@dataclass(frozen=True, kw_only=True)
class Twins(Method):
    """lambda_frozen times the base's loss on the first half of a batch, plus its loss on the second.

    base: a method with its own numbers, as {module: tecoa}. Of B images the first half has B // 2; one image alone
    goes to both. The controls `adaptive` and `frozen` have no second scale and shift, whatever `affine` says.
    """

    needs_norm: ClassVar[bool] = True
    base: dict[str, Any]
    lambda_frozen: NonNegative
    wings: Literal["both", "adaptive", "frozen"] = "both"  # of the halves; controls: both halves by one of the wings
    affine: Affine = "separate"  # as published
    split: Literal["half", "full"] = "half"  # full: both wings see the whole batch, at twice the cost
    normalise: bool = False  # divide by 1 + lambda_frozen, so that the loss has the scale of the base's

    def __post_init__(self):
        try:
            loss = nested_component(self.base, "methods", "base")
        except ParamError as error:
            raise ValueError(error) from None
        if isinstance(loss, Twins) or loss.in_batch or not loss.attacked:
            raise ValueError(f"base.module must train on attacked images one by one, got '{self.base['module']}'")
        if loss.norm_stats != self.norm_stats:
            raise ValueError(f"norm_stats must be base.norm_stats, {loss.norm_stats}, got {self.norm_stats}")
        for name in TAKEN:
            object.__setattr__(self, name, getattr(loss, name))
        object.__setattr__(self, "_loss", loss)

    def prepare(self, visual):
        twinify(visual, self.affine if self.wings == "both" else "shared")

    def finish(self, visual):
        export_plain(visual)

    def anchors(self, frozen, batch):
        return self._loss.anchors(frozen, batch)

    def fold(self, term):
        return self._loss.fold(term.partition("_")[2])

    def inner_objective(self, model, batch):
        return self._loss.inner_objective(model, batch)

    def losses(self, model, frozen, batch, adv):
        images, terms = len(batch.images), {}
        halves = (slice(max(1, images // 2)), slice(images // 2, None)) if self.split == "half" else 2 * [slice(None)]
        weights = [weight / (1 + self.lambda_frozen * self.normalise) for weight in (self.lambda_frozen, 1.0)]
        for (name, wing), rows, weight in zip(WINGS[self.wings].items(), halves, weights):
            with flying(model.visual, wing):
                of_wing = self._loss.losses(model, frozen, batch.rows(rows), adv[rows])
            terms |= {f"{name}_{term}": weight * value for term, value in of_wing.items()}
        return terms


METHOD = Twins
