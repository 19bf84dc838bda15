"""DM: discrepancy mitigating robust fine-tuning. "Pre-training also transfers non-robustness", AAAI 2023.

The model learns the label from the clean image alone. A second term holds the features of the attacked image at an
anchor. The attack uses no label and drives the features away from the anchor. The distance has no gradient where the
attacked image equals the clean image, so the attack needs a random start. The published start is Gaussian,
`train.attack.init_sigma: 5e-4`. Without cross-entropy and with the frozen anchor this is FARE, except that FARE's
distance is a sum over the D features and this distance is their mean.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from zsr.methods._base import Batch, Method
from zsr.models.heads import PixelClassifier
from zsr.models.passes import cross_entropy
from zsr.params import NonNegative


@dataclass(frozen=True, kw_only=True)
class DM(Method):
    """Cross-entropy on clean images, and attacked features held at an anchor.

    "Pre-training also transfers non-robustness", AAAI 2023. A step runs the clean batch through the model once; the
    published loop runs it once for each term.

    Attributes:
        anchor: the features that the attacked features are held at. self, published: the trained model's features of
            the clean image, through which the gradient flows too. frozen: the base model's features, as in FARE.
        beta_eff: weight of the mean square over images and features, at least 0. The published beta is divided by the
            batch size once more, so a published 500 with batches of 128 is 3.9 here.
        ce_weight: weight of the cross-entropy on clean images, at least 0.
        features: raw: not normalised. unit: of unit norm.
    """

    anchor: Literal["self", "frozen"]
    beta_eff: NonNegative
    ce_weight: NonNegative = 1.0
    features: Literal["raw", "unit"] = "raw"

    def anchors(self, frozen: PixelClassifier, batch: Batch) -> Tensor | None:
        """The frozen model's features of the clean image, (B, D); None where `anchor` is self."""
        return self._scaled(frozen.image_features(batch.images)) if self.anchor == "frozen" else None

    def inner_objective(self, model: PixelClassifier, batch: Batch) -> Callable[[Tensor], Tensor]:
        """The discrepancy of the attacked image, (B, 3, H, W) -> (B,)."""
        anchors = batch.anchors
        if self.anchor == "self":
            anchors = self._scaled(model.image_features(batch.images)).detach()  # under no_grad rounding would differ
        assert anchors is not None
        return lambda adv: self._discrepancy(model, adv, anchors)

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """Cross-entropy on clean images, and the discrepancy of the attacked ones, each with its weight."""
        image_features = model.image_features(batch.images)
        terms = {"ce_clean": self.ce_weight * cross_entropy(model.classify(image_features), batch.labels).mean()}
        if self.beta_eff:  # with 0 a step equals plain fine-tuning, BatchNorm statistics included
            anchors = self._scaled(image_features) if self.anchor == "self" else batch.anchors
            assert adv is not None and anchors is not None
            terms["discrepancy"] = self.beta_eff * self._discrepancy(model, adv, anchors).mean()
        return terms

    def _discrepancy(self, model: PixelClassifier, adv: Tensor, anchors: Tensor) -> Tensor:
        """Mean square over the D features, (B,)."""
        return (self._scaled(model.image_features(adv)) - anchors).square().mean(dim=1)

    def _scaled(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=1) if self.features == "unit" else features


METHOD = DM
