"""FT-Clean: CLIP's contrastive loss on clean images. A baseline of TGA-ZSR (Yu et al., NeurIPS 2024)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zsr.methods._base import Batch, Method
from zsr.models.heads import PixelClassifier
from zsr.models.passes import symmetric_contrastive


@dataclass(frozen=True, kw_only=True)
class FTClean(Method):
    """CLIP's symmetric contrastive loss within the batch, on clean images.

    A baseline of Yu et al., NeurIPS 2024.

    Attributes:
        attacked: False.
        in_batch: True, since the loss compares the images of a batch.
        duplicate_negatives: are images of one class in a batch negatives of each other? (quirk F1)
    """

    attacked: ClassVar[bool] = False
    in_batch: ClassVar[bool] = True
    duplicate_negatives: bool

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """The symmetric loss on x, the mean over images."""
        logits, labels = batch.joint(model(batch.images)), batch.joint(batch.labels)
        return {"contrastive": symmetric_contrastive(logits, labels, self.duplicate_negatives).mean()}


METHOD = FTClean
