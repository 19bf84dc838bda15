"""PMG-AFT: pre-trained model guided adversarial fine-tuning. Wang et al., CVPR 2024.

Cross-entropy on adversarial images, and two Kullback-Leibler terms that hold their class probabilities near those of
the frozen model on the same adversarial images and near the model's own on the clean ones.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from zsr.losses import cross_entropy
from zsr.methods._base import Method
from zsr.params import NonNegative


@dataclass(frozen=True, kw_only=True)
class PMGAFT(Method):
    needs_text: ClassVar[bool] = True  # its logits may be cosines
    lambda_general: NonNegative  # weight of the frozen model's term
    lambda_clean: NonNegative  # weight of the clean images' term
    logit_scale: Literal["one", "learnt"]  # one: logits are cosines, in the loss and its attack (quirk M1)
    kl_reduction: Literal["sum", "batchmean"]  # over the batch; sum: the weight grows with the batch (quirk M2)
    kl_direction: Literal["target_first", "adversarial_first"]  # KL(target || adv) or KL(adv || target) (quirk M3)
    detach_clean: bool  # is the clean branch a constant?

    def fold(self, term):
        """The published divergences are sums over the batch, so their weight grows with it."""
        return "sum" if term.startswith("kl") and self.kl_reduction == "sum" else "mean"

    def inner_objective(self, model, batch):
        return lambda adv: cross_entropy(self._logits(model, adv), batch.labels)

    def losses(self, model, frozen, batch, adv):
        logits, clean = self._logits(model, adv), self._logits(model, batch.images)
        if self.detach_clean:
            clean = clean.detach()
        return {
            "ce_adv": cross_entropy(logits, batch.labels).mean(),
            "kl_general": self.lambda_general * self._divergence(self._logits(frozen, adv), logits),
            "kl_clean": self.lambda_clean * self._divergence(clean, logits),
        }

    def _logits(self, model, images: Tensor) -> Tensor:
        return model(images) / model.logit_scale if self.logit_scale == "one" else model(images)

    def _divergence(self, target: Tensor, adv: Tensor) -> Tensor:
        first, second = (target, adv) if self.kl_direction == "target_first" else (adv, target)
        first, second = F.log_softmax(first, dim=1), F.log_softmax(second, dim=1)
        return F.kl_div(second, first, reduction=self.kl_reduction, log_target=True)


METHOD = PMGAFT
