"""FT-Adv.: CLIP's contrastive loss on adversarial images. A baseline of TGA-ZSR (Yu et al., NeurIPS 2024).

The attack raises the class-wise cross-entropy, not the contrastive loss (quirk F3 of the published code).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zsr.methods._base import Batch, Method
from zsr.models.heads import PixelClassifier
from zsr.models.passes import symmetric_contrastive


@dataclass(frozen=True, kw_only=True)
class FTAdv(Method):
    """CLIP's symmetric contrastive loss within the batch, on adversarial images.

    A baseline of Yu et al., NeurIPS 2024.

    Attributes:
        in_batch: True, since the loss compares the images of a batch.
        duplicate_negatives: are images of one class in a batch negatives of each other? (quirk F1)
    """

    in_batch: ClassVar[bool] = True
    duplicate_negatives: bool

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """The symmetric loss on x', the mean over images."""
        assert adv is not None
        logits, labels = batch.joint(model(adv)), batch.joint(batch.labels)
        return {"contrastive_adv": symmetric_contrastive(logits, labels, self.duplicate_negatives).mean()}


METHOD = FTAdv
