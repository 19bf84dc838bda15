"""FT-Clean: CLIP's own contrastive loss on clean images. The baseline of TGA-ZSR (Yu et al., NeurIPS 2024)."""

from dataclasses import dataclass
from typing import ClassVar

from zsr.losses import symmetric_contrastive
from zsr.methods._base import Method


@dataclass(frozen=True, kw_only=True)
class FTClean(Method):
    attacked: ClassVar[bool] = False
    in_batch: ClassVar[bool] = True
    duplicate_negatives: bool  # are images of one class in a batch negatives of each other? (quirk F1)

    def losses(self, model, frozen, batch, adv):
        logits, labels = batch.joint(model(batch.images)), batch.joint(batch.labels)
        return {"contrastive": symmetric_contrastive(logits, labels, self.duplicate_negatives).mean()}


METHOD = FTClean
