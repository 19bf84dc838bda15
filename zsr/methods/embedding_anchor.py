"""Control without text: TeCoA with its image features held near the frozen model's features of the clean image.

Not a published method. It asks what is left of TGA-ZSR's gain when the pull carries no text and no map: where this
row is as good, the gain is no evidence for text guidance.
"""

from dataclasses import dataclass

from zsr.losses import cross_entropy
from zsr.methods._base import Method
from zsr.params import NonNegative


@dataclass(frozen=True, kw_only=True)
class EmbeddingAnchor(Method):
    lambda_adv: NonNegative  # pull on the attacked image's raw features
    lambda_clean: NonNegative  # pull on the clean image's raw features

    def anchors(self, frozen, batch):
        """phi_0: the frozen model's raw features of the clean image, (B, D)."""
        return frozen.image_features(batch.images)

    def losses(self, model, frozen, batch, adv):
        adv_features, features = model.image_features(adv), model.image_features(batch.images)
        return {
            "ce_adv": cross_entropy(model.classify(adv_features), batch.labels).mean(),
            "anchor_adv": self.lambda_adv * (adv_features - batch.anchors).norm(dim=1).mean(),
            "anchor_clean": self.lambda_clean * (features - batch.anchors).norm(dim=1).mean(),
        }


METHOD = EmbeddingAnchor
