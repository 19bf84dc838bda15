"""DM: discrepancy mitigating robust fine-tuning. "Pre-training also transfers non-robustness", AAAI 2023.

The label is learnt from the clean image alone; beside it the features of the attacked image are held at an anchor, and
the attack, which sees no label, drives them away from there. At the clean image the distance to its own features has
no gradient, so the attack needs a random start: published is a Gaussian, `train.attack.init_sigma: 5e-4`. Without
cross-entropy and with the frozen anchor this is FARE, whose distance is a sum over the D numbers, not their mean.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from zsr.losses import cross_entropy
from zsr.methods._base import Method
from zsr.params import NonNegative


@dataclass(frozen=True, kw_only=True)
class DM(Method):
    """A step sees the clean batch once, where the published loop runs it again for each term.

    anchor: what features are held at; self, published: the trained model's own of the clean image, which learn too;
    frozen: the base model's, as in FARE. beta_eff: weight of the mean square over images and numbers; the published
    beta is divided by the batch size once more, so 500 with batches of 128 is 3.9 here.
    """

    anchor: Literal["self", "frozen"]
    beta_eff: NonNegative
    ce_weight: NonNegative = 1.0
    features: Literal["raw", "unit"] = "raw"

    def anchors(self, frozen, batch):
        """The frozen model's features of the clean image, (B, D), where they are what is held on to."""
        return self._scaled(frozen.image_features(batch.images)) if self.anchor == "frozen" else None

    def inner_objective(self, model, batch):
        held = batch.anchors
        if self.anchor == "self":
            held = self._scaled(model.image_features(batch.images)).detach()  # no_grad would round otherwise
        return lambda adv: self._discrepancy(model, adv, held)

    def losses(self, model, frozen, batch, adv):
        clean = model.image_features(batch.images)
        terms = {"ce_clean": self.ce_weight * cross_entropy(model.classify(clean), batch.labels).mean()}
        if self.beta_eff:  # without it a step is one of plain fine-tuning, BN statistics included
            held = self._scaled(clean) if self.anchor == "self" else batch.anchors
            terms["discrepancy"] = self.beta_eff * self._discrepancy(model, adv, held).mean()
        return terms

    def _discrepancy(self, model, adv: Tensor, held: Tensor) -> Tensor:
        """Mean square over the D numbers, (B,)."""
        return (self._scaled(model.image_features(adv)) - held).square().mean(dim=1)

    def _scaled(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=1) if self.features == "unit" else features


METHOD = DM
