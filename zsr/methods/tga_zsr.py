"""TGA-ZSR: text-guided attention for zero-shot robustness. Yu et al., NeurIPS 2024, eqs. 6-7."""

from dataclasses import dataclass

from torch import Tensor

from zsr.attention import map_distance, text_guided_attention
from zsr.losses import cross_entropy
from zsr.methods._base import Method
from zsr.params import NonNegative


@dataclass(frozen=True, kw_only=True)
class TGAZSR(Method):
    """Cross-entropy on adversarial images, and two pulls of attention maps to the frozen model's on the clean image."""

    lambda_ar: NonNegative  # attention refinement: the attacked map; alpha in the paper
    lambda_amc: NonNegative  # attention-based model constraint: the clean map; beta in the paper

    def anchors(self, frozen, images, labels):
        """A_0: the frozen model's map of the clean image for its true class, (B, P)."""
        return text_guided_attention(frozen.tokens(images), frozen.text_embeddings[labels])

    def losses(self, model, frozen, batch, adv):
        text = model.text_embeddings[batch.labels]

        def shift(tokens: Tensor) -> Tensor:
            maps = text_guided_attention(tokens, text)
            return map_distance(maps, batch.anchors, model.grid, model.image_size).mean()

        adv_tokens = model.tokens(adv)  # one forward serves the logits and the map
        return {
            "ce_adv": cross_entropy(model.classify(model.pool(adv_tokens)), batch.labels).mean(),
            "attention_refinement": self.lambda_ar * shift(adv_tokens),
            "attention_constraint": self.lambda_amc * shift(model.tokens(batch.images)),
        }


METHOD = TGAZSR
