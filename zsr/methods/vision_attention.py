"""TGA-ZSR with visual attention: Grad-CAM maps replace text-guided maps. Yu et al., NeurIPS 2024, table 4.

In the published code the maps pass through NumPy and carry no gradient (quirk V1). Its training is therefore a training
by cross-entropy alone, and the published row equals the row of the ablation without attention.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from zsr.methods._base import Batch, Method
from zsr.models.attention import grad_cam, map_distance, min_max, resize
from zsr.models.heads import PixelClassifier
from zsr.models.passes import cross_entropy
from zsr.params import NonNegative


@dataclass(frozen=True, kw_only=True)
class VisionAttention(Method):
    """Cross-entropy on adversarial images, and two pulls of Grad-CAM maps to the frozen model's on the clean image.

    Yu et al., NeurIPS 2024, table 4.

    Attributes:
        needs_blocks: True, since Grad-CAM reads a residual block.
        needs_text: True, since a map explains the logit of a class prompt by patch tokens.
        lambda_ar: weight of the pull on the attacked image's map, at least 0.
        lambda_amc: weight of the pull on the clean image's map, at least 0.
        map_gradient: none: the maps are constants, as published (quirk V1). second_order: the maps train the tower.
        target: the class that a map explains. label: the true class. predicted: the class with the largest logit among
            the classes of the batch.
    """

    needs_blocks: ClassVar[bool] = True
    needs_text: ClassVar[bool] = True
    lambda_ar: NonNegative
    lambda_amc: NonNegative
    map_gradient: Literal["none", "second_order"]
    target: Literal["predicted", "label"]

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """Cross-entropy on x', lambda_ar d(A(x'), A_0(x)) and lambda_amc d(A(x), A_0(x)), d the norm."""
        assert adv is not None
        anchor = self._maps(frozen, batch.images, batch, differentiable=False)

        def shift(images: Tensor) -> Tensor:
            maps = self._maps(model, images, batch, differentiable=self.map_gradient == "second_order")
            return map_distance(maps, anchor, model.image_size, model.image_size).mean()

        return {
            "ce_adv": cross_entropy(model(adv), batch.labels).mean(),
            "attention_refinement": self.lambda_ar * shift(adv),
            "attention_constraint": self.lambda_amc * shift(batch.images),
        }

    def _maps(self, model: PixelClassifier, images: Tensor, batch: Batch, differentiable: bool) -> Tensor:
        """Grad-CAM maps, resized to the image and then scaled to [0, 1]: (B, H * W)."""

        def score(image_features: Tensor) -> Tensor:
            logits = model.classify(image_features)
            if self.target == "label":
                return logits.gather(1, batch.labels[:, None])[:, 0]
            return logits[:, batch.joint(batch.labels)].amax(dim=1)

        cam = grad_cam(model, images, score, differentiable)
        return min_max(resize(cam, model.grid, model.image_size))


METHOD = VisionAttention
