"""FT-Adv.: CLIP's own contrastive loss on adversarial images. The baseline of TGA-ZSR (Yu et al., NeurIPS 2024).

The attack raises the class-wise cross-entropy, not the contrastive loss (quirk F3 of the published code).
"""

from dataclasses import dataclass
from typing import ClassVar

from zsr.losses import symmetric_contrastive
from zsr.methods._base import Method


@dataclass(frozen=True, kw_only=True)
class FTAdv(Method):
    in_batch: ClassVar[bool] = True
    duplicate_negatives: bool  # are images of one class in a batch negatives of each other? (quirk F1)

    def losses(self, model, frozen, batch, adv):
        logits, labels = batch.joint(model(adv)), batch.joint(batch.labels)
        return {"contrastive_adv": symmetric_contrastive(logits, labels, self.duplicate_negatives).mean()}


METHOD = FTAdv
