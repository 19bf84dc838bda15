"""Comp-TGA: complementary text-guided attention, TGA-ZSR with a second, negated prompt per class.

The map is A = a (1 - n). The map a belongs to the class prompt and the map n to the non-class prompt. Both are scaled
to [0, 1] and then resized to the image. CLIP is nearly blind to "not": where both prompts give the same map,
A = a (1 - a) is at most 0.25 (quirk C4).
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from zsr.methods._base import Batch, Method
from zsr.models.attention import map_distance, min_max, resize, similarity
from zsr.models.heads import PixelClassifier
from zsr.models.passes import cross_entropy
from zsr.params import NonNegative, Template


@dataclass(frozen=True, kw_only=True)
class CompTGA(Method):
    """Cross-entropy on adversarial images, and two pulls of the maps A to the frozen model's on the clean image.

    Attributes:
        needs_text: True, since A compares patch tokens with class prompts.
        lambda_ar: weight of the pull on the attacked image's map, at least 0; alpha in the paper.
        lambda_amc: weight of the pull on the clean image's map, at least 0; beta in the paper (quirk C5).
        non_class_template: the negated prompt of a class, with {} for the class name (quirk C4).
        renormalize: scale A to [0, 1] again; the published code does not (quirk C4).
    """

    needs_text: ClassVar[bool] = True
    lambda_ar: NonNegative
    lambda_amc: NonNegative
    non_class_template: Template = field()  # type: ignore[misc]  # a param; `field` removes Method's default
    renormalize: bool

    def anchors(self, frozen: PixelClassifier, batch: Batch) -> Tensor:
        """Similarities of the frozen model's clean tokens to the class and the non-class prompt: (B, 2, P)."""
        return self._similarities(frozen, frozen.tokens(batch.images), batch)

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """Cross-entropy on x', lambda_ar d(A(x'), A_0(x)) and lambda_amc d(A(x), A_0(x)), d the norm."""
        assert adv is not None and batch.anchors is not None
        anchors = self._maps(batch.anchors, model)

        def shift(tokens: Tensor) -> Tensor:
            maps = self._maps(self._similarities(model, tokens, batch), model)
            return map_distance(maps, anchors, model.image_size, model.image_size).mean()

        adv_tokens = model.tokens(adv)
        return {
            "ce_adv": cross_entropy(model.classify(model.pool(adv_tokens)), batch.labels).mean(),
            "attention_refinement": self.lambda_ar * shift(adv_tokens),
            "attention_constraint": self.lambda_amc * shift(model.tokens(batch.images)),
        }

    def _similarities(self, model: PixelClassifier, tokens: Tensor, batch: Batch) -> Tensor:
        assert batch.non_class is not None
        texts = (model.text_embeddings[batch.labels], batch.non_class)
        return torch.stack([similarity(tokens, text) for text in texts], dim=1)

    def _maps(self, similarities: Tensor, model: PixelClassifier) -> Tensor:
        """(B, 2, P) -> A, (B, H * W). The product is computed at image size, so no Gram matrix applies (quirk C6)."""
        a, n = (resize(min_max(x), model.grid, model.image_size) for x in similarities.unbind(dim=1))
        return min_max(a * (1 - n)) if self.renormalize else a * (1 - n)


METHOD = CompTGA
