"""TGA-ZSR: text-guided attention for zero-shot robustness. Yu et al., NeurIPS 2024, eqs. 6-7."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from zsr.losses import cross_entropy
from zsr.methods._base import Method
from zsr.models.attention import Distance, NormAxis, map_distance, min_max, resize, similarity
from zsr.params import NonNegative


@dataclass(frozen=True, kw_only=True)
class TGAZSR(Method):
    needs_text: ClassVar[bool] = True
    """Cross-entropy on adversarial images, and two pulls of attention maps to the frozen model's on the clean image."""

    lambda_ar: NonNegative  # attention refinement: the attacked map; alpha in the paper
    lambda_amc: NonNegative  # attention-based model constraint: the clean map; beta in the paper
    norm_axis: NormAxis  # what is brought to unit norm before the product with the text (quirk G5)
    order: Literal["minmax_resize", "resize_minmax"]  # quirk G6
    distance: Distance  # quirk G9

    def anchors(self, frozen, batch):
        """Similarities behind A_0, the frozen model's map of the clean image for its true class: (B, P)."""
        return similarity(frozen.tokens(batch.images), frozen.text_embeddings[batch.labels], self.norm_axis)

    def losses(self, model, frozen, batch, adv):
        text = model.text_embeddings[batch.labels]

        def shift(tokens: Tensor) -> Tensor:
            return self._distance(similarity(tokens, text, self.norm_axis), batch.anchors, model).mean()

        adv_tokens = model.tokens(adv)  # one forward serves the logits and the map
        return {
            "ce_adv": cross_entropy(model.classify(model.pool(adv_tokens)), batch.labels).mean(),
            "attention_refinement": self.lambda_ar * shift(adv_tokens),
            "attention_constraint": self.lambda_amc * shift(model.tokens(batch.images)),
        }

    def _distance(self, own: Tensor, anchors: Tensor, model) -> Tensor:
        """Distance (B,) of the maps that two arrays of similarities (B, P) stand for."""
        pair, grid = (own, anchors), model.grid
        if self.order == "resize_minmax":
            pair, grid = [resize(x, model.grid, model.image_size) for x in pair], model.image_size
        return map_distance(*map(min_max, pair), grid, model.image_size, self.distance)


METHOD = TGAZSR
