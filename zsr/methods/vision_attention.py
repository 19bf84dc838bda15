"""TGA-ZSR with visual attention: Grad-CAM maps in the place of text-guided ones. Yu et al., NeurIPS 2024, table 4.

In the published code the maps pass through NumPy and carry no gradient (quirk V1), so its training is that of
cross-entropy alone; the published row equals that of the ablation without attention.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from zsr.losses import cross_entropy
from zsr.methods._base import Batch, Method
from zsr.models.attention import grad_cam, map_distance, min_max, resize
from zsr.params import NonNegative


@dataclass(frozen=True, kw_only=True)
class VisionAttention(Method):
    needs_blocks: ClassVar[bool] = True
    needs_text: ClassVar[bool] = True
    lambda_ar: NonNegative  # pull on the attacked map
    lambda_amc: NonNegative  # pull on the clean map
    map_gradient: Literal["none", "second_order"]  # none: the maps are constants, as published (quirk V1)
    target: Literal["predicted", "label"]  # the class that is explained; predicted: among the classes of the batch

    def losses(self, model, frozen, batch, adv):
        anchor = self._maps(frozen, batch.images, batch, differentiable=False)

        def shift(images: Tensor) -> Tensor:
            maps = self._maps(model, images, batch, differentiable=self.map_gradient == "second_order")
            return map_distance(maps, anchor, model.image_size, model.image_size).mean()

        return {
            "ce_adv": cross_entropy(model(adv), batch.labels).mean(),
            "attention_refinement": self.lambda_ar * shift(adv),
            "attention_constraint": self.lambda_amc * shift(batch.images),
        }

    def _maps(self, model, images: Tensor, batch: Batch, differentiable: bool) -> Tensor:
        """Grad-CAM at image size, then brought to [0, 1]: (B, H * W)."""

        def score(image_features: Tensor) -> Tensor:
            logits = model.classify(image_features)
            if self.target == "label":
                return logits.gather(1, batch.labels[:, None])[:, 0]
            return logits[:, batch.joint(batch.labels)].amax(dim=1)

        cam = grad_cam(model, images, score, differentiable)
        return min_max(resize(cam, model.grid, model.image_size))


METHOD = VisionAttention
