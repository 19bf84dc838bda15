"""DM: discrepancy mitigating robust fine-tuning. "Pre-training also transfers non-robustness", AAAI 2023.

The label is learnt from the clean image alone; beside it the features of the attacked image are held at an anchor, and
the attack, which sees no label, drives them away from there. At the clean image the distance to its own features has
no gradient, so the attack needs a random start: published is a Gaussian, `train.attack.init_sigma: 5e-4`. Without
cross-entropy and with the frozen anchor this is FARE, whose distance is a sum over the D numbers, not their mean.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from zsr.losses import cross_entropy
from zsr.methods._base import Batch, Method
from zsr.models.classifier import PixelClassifier
from zsr.params import NonNegative


@dataclass(frozen=True, kw_only=True)
class DM(Method):
    """Cross-entropy on clean images, and attacked features held at an anchor.

    "Pre-training also transfers non-robustness", AAAI 2023. A step sees the clean batch once, where the published loop
    runs it again for each term.

    Attributes:
        anchor: what features are held at. self, published: the trained model's own of the clean image, which learn too.
            frozen: the base model's, as in FARE.
        beta_eff: weight of the mean square over images and numbers, at least 0; the published beta is divided by the
            batch size once more, so 500 with batches of 128 is 3.9 here.
        ce_weight: weight of the cross-entropy on clean images, at least 0.
        features: raw, or brought to unit norm.
    """

    anchor: Literal["self", "frozen"]
    beta_eff: NonNegative
    ce_weight: NonNegative = 1.0
    features: Literal["raw", "unit"] = "raw"

    def anchors(self, frozen: PixelClassifier, batch: Batch) -> Tensor | None:
        """The frozen model's features of the clean image, (B, D), where they are what is held on to."""
        return self._scaled(frozen.image_features(batch.images)) if self.anchor == "frozen" else None

    def inner_objective(self, model: PixelClassifier, batch: Batch) -> Callable[[Tensor], Tensor]:
        """The discrepancy of the attacked image, (B, 3, H, W) -> (B,)."""
        held = batch.anchors
        if self.anchor == "self":
            held = self._scaled(model.image_features(batch.images)).detach()  # no_grad would round otherwise
        assert held is not None
        return lambda adv: self._discrepancy(model, adv, held)

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """Cross-entropy on clean images, and the discrepancy of the attacked ones, each with its weight."""
        clean = model.image_features(batch.images)
        terms = {"ce_clean": self.ce_weight * cross_entropy(model.classify(clean), batch.labels).mean()}
        if self.beta_eff:  # without it a step is one of plain fine-tuning, BN statistics included
            held = self._scaled(clean) if self.anchor == "self" else batch.anchors
            assert adv is not None and held is not None
            terms["discrepancy"] = self.beta_eff * self._discrepancy(model, adv, held).mean()
        return terms

    def _discrepancy(self, model: PixelClassifier, adv: Tensor, held: Tensor) -> Tensor:
        """Mean square over the D numbers, (B,)."""
        return (self._scaled(model.image_features(adv)) - held).square().mean(dim=1)

    def _scaled(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=1) if self.features == "unit" else features


METHOD = DM
