"""TRADES: cross-entropy on clean images, and a divergence of attacked predictions. Zhang et al., ICML 2019.

The divergence pulls the predictions on attacked images to the predictions on clean images. The attack raises
cross-entropy, not the divergence, and the gradient flows through both sides of the divergence. Both follow the
published code of TWINS (Liu et al., CVPR 2023), of which this is a baseline.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from zsr.methods._base import Batch, Method
from zsr.models.heads import PixelClassifier
from zsr.models.passes import cross_entropy
from zsr.params import NonNegative


@dataclass(frozen=True, kw_only=True)
class TRADES(Method):
    """Cross-entropy on clean images plus beta times KL(P(x) || P(x')). Zhang et al., ICML 2019.

    Attributes:
        beta: weight of the divergence, at least 0.
        beta_reduction: how the divergence is reduced. nominal_batch, as published: its sum over the batch, divided by
            the batch size of the recipe. mean: its mean over the images.
    """

    beta: NonNegative
    beta_reduction: Literal["nominal_batch", "mean"]

    def fold(self, term: str) -> Literal["mean", "sum", "whole"]:
        """sum for the divergence where it is divided by the nominal batch size, else mean."""
        return "sum" if term == "kl" and self.beta_reduction == "nominal_batch" else "mean"

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """Cross-entropy on x, and beta KL(P(x) || P(x')) with a gradient through both sides."""
        assert adv is not None
        attacked = F.log_softmax(model(adv), dim=1)  # attacked images first: BatchNorm sees them in this order
        logits = model(batch.images)
        divergence = F.kl_div(attacked, F.log_softmax(logits, dim=1), reduction="sum", log_target=True)
        images = batch.nominal if self.beta_reduction == "nominal_batch" else None
        return {
            "ce_clean": cross_entropy(logits, batch.labels).mean(),
            "kl": self.beta * divergence / (images or len(batch.images)),
        }


METHOD = TRADES
