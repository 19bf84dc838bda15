"""AGFT: alignment-guided fine-tuning, with the frozen model as teacher. Cui et al., CVPR 2026.

The teacher is the frozen model on the clean image, at a softened temperature. The student is the trained model on the
attacked image. The loss and the attack use no label: where the frozen model is wrong, the student learns its error
(quirk AG1).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zsr.methods._base import Batch, Method
from zsr.models.heads import PixelClassifier
from zsr.params import Positive


@dataclass(frozen=True, kw_only=True)
class AGFT(Method):
    """Cross-entropy between the frozen model's probabilities of the clean image and those of the attacked image.

    Cui et al., CVPR 2026.

    Attributes:
        needs_text: True, since the probabilities compare image features with class prompts.
        logit_scale: the factor of the student's cosines, above 0; tau in the paper. Evaluation uses the model's own
            factor (quirk AG2).
        scale_ratio: the teacher's factor is scale_ratio * logit_scale; rho in the paper. Below 1 the teacher is softer
            than the student. 1: no calibration (quirk AG4).
        teacher: the target of the student (quirk AG1). clip: the frozen model's probabilities, as published.
            label_where_wrong: the label where the frozen model is wrong. label: always the label, so the method is
            TeCoA at the factor logit_scale, and scale_ratio changes nothing.
    """

    needs_text: ClassVar[bool] = True
    logit_scale: Positive
    scale_ratio: Positive
    teacher: Literal["clip", "label_where_wrong", "label"]

    def anchors(self, frozen: PixelClassifier, batch: Batch) -> Tensor:
        """phi_0: the frozen model's features of the clean image, (B, D)."""
        return frozen.image_features(batch.images)

    def inner_objective(self, model: PixelClassifier, batch: Batch) -> Callable[[Tensor], Tensor]:
        """The soft cross-entropy of `losses`, (B, 3, H, W) -> (B,)."""
        target = self._target(model, batch)
        return lambda adv: self._soft_cross_entropy(model, adv, target)

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """The mean over images of -sum_c y_c(x) log P_c(x')."""
        assert adv is not None
        return {"soft_ce_adv": self._soft_cross_entropy(model, adv, self._target(model, batch)).mean()}

    @torch.no_grad()
    def _target(self, model: PixelClassifier, batch: Batch) -> Tensor:
        """y: the probabilities that the student shall reach, (B, C)."""
        assert batch.anchors is not None
        with torch.autocast(batch.anchors.device.type, enabled=False):  # the same target in the attack and in the loss
            logits = model.classify(batch.anchors)
        label = F.one_hot(batch.labels, logits.shape[1]).to(logits)
        if self.teacher == "label":
            return label
        factor = self.scale_ratio * self.logit_scale / model.logit_scale
        probabilities = F.softmax(factor * logits, dim=1)
        if self.teacher == "clip":
            return probabilities
        wrong = logits.argmax(dim=1) != batch.labels
        return torch.where(wrong[:, None], label, probabilities)

    def _soft_cross_entropy(self, model: PixelClassifier, adv: Tensor, target: Tensor) -> Tensor:
        """(B, 3, H, W), (B, C) -> (B,)."""
        logits = self.logit_scale / model.logit_scale * model(adv)
        return -(target * F.log_softmax(logits, dim=1)).sum(dim=1)


METHOD = AGFT
