"""PMG-AFT: pre-trained model guided adversarial fine-tuning. Wang et al., CVPR 2024.

The loss is cross-entropy on adversarial images plus two Kullback-Leibler terms. The first term holds the class
probabilities near those of the frozen model on the same adversarial images. The second term holds them near those of
the trained model on the clean images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from zsr.methods._base import Batch, Method
from zsr.models.heads import PixelClassifier
from zsr.models.passes import cross_entropy
from zsr.params import NonNegative


@dataclass(frozen=True, kw_only=True)
class PMGAFT(Method):
    """Cross-entropy on adversarial images, a divergence from the frozen model, and one from the clean images.

    Wang et al., CVPR 2024.

    Attributes:
        needs_text: True, since the logits may be cosines.
        lambda_general: weight of the frozen model's term, at least 0.
        lambda_clean: weight of the clean images' term, at least 0.
        logit_scale: one: logits are cosines, in the loss and in the attack (quirk M1). learnt: CLIP's logits.
        kl_reduction: how the divergences are reduced over the batch. sum: the weight grows with the batch (quirk M2).
        kl_direction: target_first: KL(target || adv). adversarial_first: KL(adv || target) (quirk M3).
        detach_clean: is the clean branch a constant? (quirk M-detach)
    """

    needs_text: ClassVar[bool] = True
    lambda_general: NonNegative
    lambda_clean: NonNegative
    logit_scale: Literal["one", "learnt"]
    kl_reduction: Literal["sum", "batchmean"]
    kl_direction: Literal["target_first", "adversarial_first"]
    detach_clean: bool

    def fold(self, term: str) -> Literal["mean", "sum", "whole"]:
        """sum for the divergences where `kl_reduction` is sum, so that their weight grows with the batch, else mean."""
        return "sum" if term.startswith("kl") and self.kl_reduction == "sum" else "mean"

    def inner_objective(self, model: PixelClassifier, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Cross-entropy of the logits of `losses`, (B, 3, H, W) -> (B,)."""
        return lambda adv: cross_entropy(self._logits(model, adv), batch.labels)

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """Cross-entropy on x', lambda_general KL(P_0(x') || P(x')) and lambda_clean KL(P(x) || P(x'))."""
        assert adv is not None
        logits, clean = self._logits(model, adv), self._logits(model, batch.images)
        if self.detach_clean:
            clean = clean.detach()
        return {
            "ce_adv": cross_entropy(logits, batch.labels).mean(),
            "kl_general": self.lambda_general * self._divergence(self._logits(frozen, adv), logits),
            "kl_clean": self.lambda_clean * self._divergence(clean, logits),
        }

    def _logits(self, model: PixelClassifier, images: Tensor) -> Tensor:
        return model(images) / model.logit_scale if self.logit_scale == "one" else model(images)

    def _divergence(self, target: Tensor, adv: Tensor) -> Tensor:
        first, second = (target, adv) if self.kl_direction == "target_first" else (adv, target)
        first, second = F.log_softmax(first, dim=1), F.log_softmax(second, dim=1)
        return F.kl_div(second, first, reduction=self.kl_reduction, log_target=True)


METHOD = PMGAFT
