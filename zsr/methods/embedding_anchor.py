"""Control without text: TeCoA with image features held near the frozen model's features of the clean image.

This is not a published method. It measures how much of TGA-ZSR's gain remains when the pull uses no text and no map.
Where this row is as good as TGA-ZSR, the gain is no evidence for text guidance.
"""

from dataclasses import dataclass

from torch import Tensor

from zsr.methods._base import Batch, Method
from zsr.models.heads import PixelClassifier
from zsr.models.passes import cross_entropy
from zsr.params import NonNegative


@dataclass(frozen=True, kw_only=True)
class EmbeddingAnchor(Method):
    """Cross-entropy on adversarial images, and two pulls of raw features to the frozen model's of the clean image.

    A control of ours, not a published method.

    Attributes:
        lambda_adv: weight of the pull on the attacked image's raw features, at least 0.
        lambda_clean: weight of the pull on the clean image's raw features, at least 0.
    """

    lambda_adv: NonNegative
    lambda_clean: NonNegative

    def anchors(self, frozen: PixelClassifier, batch: Batch) -> Tensor:
        """phi_0: the frozen model's raw features of the clean image, (B, D)."""
        return frozen.image_features(batch.images)

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """Cross-entropy on x', lambda_adv ||phi(x') - phi_0(x)|| and lambda_clean ||phi(x) - phi_0(x)||."""
        assert adv is not None and batch.anchors is not None
        adv_features, features = model.image_features(adv), model.image_features(batch.images)
        return {
            "ce_adv": cross_entropy(model.classify(adv_features), batch.labels).mean(),
            "anchor_adv": self.lambda_adv * (adv_features - batch.anchors).norm(dim=1).mean(),
            "anchor_clean": self.lambda_clean * (features - batch.anchors).norm(dim=1).mean(),
        }


METHOD = EmbeddingAnchor
