"""FARE: unsupervised adversarial fine-tuning of image features. Schlarmann et al., ICML 2024, eq. 3.

The method uses no text and no label. The loss holds the attacked image's features at the frozen model's features of the
clean image. The attack drives them away from there.

Sim-CLIP (Hossain and Imteaj, 2024) is FARE with a cosine in the loss; its attack is FARE's (quirk SC1).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from zsr.methods._base import Batch, Method
from zsr.models.heads import PixelClassifier


@dataclass(frozen=True, kw_only=True)
class FARE(Method):
    """The squared distance of the attacked image's features to the frozen model's of the clean image.

    Schlarmann et al., ICML 2024, eq. 3.

    Attributes:
        features: raw: not normalised, as published. unit: of unit norm.
        outer: the distance in the loss. squared: as in the attack. cosine: half of 1 - cosine, as in Sim-CLIP.
    """

    features: Literal["raw", "unit"]
    outer: Literal["squared", "cosine"] = "squared"

    def anchors(self, frozen: PixelClassifier, batch: Batch) -> Tensor:
        """phi_0: the frozen model's features of the clean image, (B, D)."""
        return self._features(frozen, batch.images)

    def inner_objective(self, model: PixelClassifier, batch: Batch) -> Callable[[Tensor], Tensor]:
        """The squared distance ||phi(x') - phi_0(x)||², (B, 3, H, W) -> (B,)."""
        return lambda adv: self._shift(model, adv, batch)

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """The mean over images of ||phi(x') - phi_0(x)||², or of (1 - cos(phi(x'), phi_0(x))) / 2."""
        assert adv is not None and batch.anchors is not None
        if self.outer == "cosine":
            cosines = F.cosine_similarity(self._features(model, adv), batch.anchors, dim=1)
            return {"feature_turn": (1 - cosines).mean() / 2}
        return {"feature_shift": self._shift(model, adv, batch).mean()}

    def _shift(self, model: PixelClassifier, adv: Tensor, batch: Batch) -> Tensor:
        assert batch.anchors is not None
        return (self._features(model, adv) - batch.anchors).square().sum(dim=1)

    def _features(self, model: PixelClassifier, images: Tensor) -> Tensor:
        features = model.image_features(images)
        return F.normalize(features, dim=1) if self.features == "unit" else features


METHOD = FARE
