"""FT: cross-entropy on clean images, over class prompts or a linear head. The transfer study calls it fine-tuning.

"Pre-training also transfers non-robustness", AAAI 2023.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zsr.methods._base import Batch, Method
from zsr.models.heads import PixelClassifier
from zsr.models.passes import cross_entropy


@dataclass(frozen=True, kw_only=True)
class FT(Method):
    """Cross-entropy on clean images.

    "Pre-training also transfers non-robustness", AAAI 2023.

    Attributes:
        attacked: False.
    """

    attacked: ClassVar[bool] = False

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """Cross-entropy on x, the mean over images."""
        return {"ce_clean": cross_entropy(model(batch.images), batch.labels).mean()}


METHOD = FT
