"""TRADES: cross-entropy on clean images, and attacked predictions pulled to the clean ones. Zhang et al., ICML 2019.

The attack raises cross-entropy, not the divergence, and the gradient flows through both sides of the divergence: as
in the published code of TWINS (Liu et al., CVPR 2023), whose baseline this is.
"""

from dataclasses import dataclass
from typing import Literal

from torch.nn import functional as F

from zsr.losses import cross_entropy
from zsr.methods._base import Method
from zsr.params import NonNegative


@dataclass(frozen=True, kw_only=True)
class TRADES(Method):
    beta: NonNegative  # weight of KL(p(clean) || p(attacked))
    beta_reduction: Literal["nominal_batch", "mean"]  # of KL: its sum over the recipe's batch size, as published; mean

    def fold(self, term):
        return "sum" if term == "kl" and self.beta_reduction == "nominal_batch" else "mean"

    def losses(self, model, frozen, batch, adv):
        attacked = F.log_softmax(model(adv), dim=1)  # first: the order in which BatchNorm sees them
        logits = model(batch.images)
        divergence = F.kl_div(attacked, F.log_softmax(logits, dim=1), reduction="sum", log_target=True)
        images = batch.nominal if self.beta_reduction == "nominal_batch" else None
        return {
            "ce_clean": cross_entropy(logits, batch.labels).mean(),
            "kl": self.beta * divergence / (images or len(batch.images)),
        }


METHOD = TRADES
