"""TGA-ZSR: text-guided attention for zero-shot robustness. Yu et al., NeurIPS 2024, eqs. 6-7."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from zsr.losses import cross_entropy
from zsr.methods._base import Batch, Method
from zsr.models.attention import Distance, NormAxis, map_distance, min_max, resize, similarity
from zsr.models.classifier import PixelClassifier
from zsr.params import NonNegative


@dataclass(frozen=True, kw_only=True)
class TGAZSR(Method):
    """Cross-entropy on adversarial images, and two pulls of attention maps to the frozen model's on the clean image.

    Yu et al., NeurIPS 2024, eqs. 6-7.

    Attributes:
        needs_text: True: a map is of patch tokens and class prompts.
        lambda_ar: weight of the attention refinement, of the attacked image's map, at least 0; alpha in the paper.
        lambda_amc: weight of the attention-based model constraint, of the clean image's map, at least 0; beta in the
            paper.
        norm_axis: what is brought to unit norm before the product with the text (quirk G5).
        order: of min-max and resizing to the image (quirk G6).
        distance: of two maps (quirk G9).
    """

    needs_text: ClassVar[bool] = True
    lambda_ar: NonNegative
    lambda_amc: NonNegative
    norm_axis: NormAxis
    order: Literal["minmax_resize", "resize_minmax"]
    distance: Distance

    def anchors(self, frozen: PixelClassifier, batch: Batch) -> Tensor:
        """Similarities behind A_0, the frozen model's map of the clean image for its true class: (B, P)."""
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

    def _distance(self, own: Tensor, anchors: Tensor, model: PixelClassifier) -> Tensor:
        """Distance (B,) of the maps that two arrays of similarities (B, P) stand for."""
        grid = model.grid
        if self.order == "resize_minmax":
            own, anchors = (resize(x, grid, model.image_size) for x in (own, anchors))
            grid = model.image_size
        return map_distance(min_max(own), min_max(anchors), grid, model.image_size, self.distance)


METHOD = TGAZSR
