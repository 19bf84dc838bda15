"""TGA-ZSR: text-guided attention for zero-shot robustness. Yu et al., NeurIPS 2024, eqs. 6-7."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from zsr.methods._base import Batch, Method
from zsr.models.attention import Distance, NormAxis, map_distance, min_max, resize, similarity
from zsr.models.heads import PixelClassifier
from zsr.models.passes import cross_entropy
from zsr.params import NonNegative


@dataclass(frozen=True, kw_only=True)
class TGAZSR(Method):
    """Cross-entropy on adversarial images, and two pulls of attention maps to the frozen model's on the clean image.

    Yu et al., NeurIPS 2024, eqs. 6-7.

    Attributes:
        needs_text: True, since a map compares patch tokens with a class prompt.
        lambda_ar: weight of the attention refinement, the pull on the attacked image's map, at least 0; alpha in the
            paper.
        lambda_amc: weight of the attention-based model constraint, the pull on the clean image's map, at least 0; beta
            in the paper.
        norm_axis: the axis of unit norm before the product of tokens and text (quirk G5).
        order: the order of min-max and of resizing to the image (quirk G6).
        distance: the distance between two maps (quirk G9).
    """

    needs_text: ClassVar[bool] = True
    lambda_ar: NonNegative
    lambda_amc: NonNegative
    norm_axis: NormAxis
    order: Literal["minmax_resize", "resize_minmax"]
    distance: Distance

    def anchors(self, frozen: PixelClassifier, batch: Batch) -> Tensor:
        """Similarities that A_0 is made from, the frozen model's map of the clean image for the true class: (B, P)."""
        return similarity(frozen.tokens(batch.images), frozen.text_embeddings[batch.labels], self.norm_axis)

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """Cross-entropy on x', lambda_ar d(A(x'), A_0(x)) and lambda_amc d(A(x), A_0(x))."""
        assert adv is not None and batch.anchors is not None
        anchors = batch.anchors
        text = model.text_embeddings[batch.labels]

        def shift(tokens: Tensor) -> Tensor:
            return self._distance(similarity(tokens, text, self.norm_axis), anchors, model).mean()

        adv_tokens = model.tokens(adv)  # one forward serves the logits and the map
        return {
            "ce_adv": cross_entropy(model.classify(model.pool(adv_tokens)), batch.labels).mean(),
            "attention_refinement": self.lambda_ar * shift(adv_tokens),
            "attention_constraint": self.lambda_amc * shift(model.tokens(batch.images)),
        }

    def _distance(self, similarities: Tensor, anchors: Tensor, model: PixelClassifier) -> Tensor:
        """Distance (B,) between the maps of two arrays of similarities, each (B, P)."""
        grid = model.grid
        if self.order == "resize_minmax":
            similarities, anchors = (resize(x, grid, model.image_size) for x in (similarities, anchors))
            grid = model.image_size
        return map_distance(min_max(similarities), min_max(anchors), grid, model.image_size, self.distance)


METHOD = TGAZSR
