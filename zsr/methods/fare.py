"""FARE: unsupervised adversarial fine-tuning of image features. Schlarmann et al., ICML 2024, eq. 3.

No text and no label: the attacked image's features are held at the frozen model's features of the clean image, and
the attack drives them away from there.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from zsr.methods._base import Method


@dataclass(frozen=True, kw_only=True)
class FARE(Method):
    features: Literal["raw", "unit"]  # raw: not normalised, as published

    def anchors(self, frozen, batch):
        """phi_0: the frozen model's features of the clean image, (B, D)."""
        return self._features(frozen, batch.images)

    def inner_objective(self, model, batch):
        return lambda adv: self._shift(model, adv, batch)

    def losses(self, model, frozen, batch, adv):
        return {"feature_shift": self._shift(model, adv, batch).mean()}

    def _shift(self, model, adv: Tensor, batch) -> Tensor:
        return (self._features(model, adv) - batch.anchors).square().sum(dim=1)

    def _features(self, model, images: Tensor) -> Tensor:
        features = model.image_features(images)
        return F.normalize(features, dim=1) if self.features == "unit" else features


METHOD = FARE
