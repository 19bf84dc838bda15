"""SAFT: semantic-aware adversarial fine-tuning, TGA-ZSR with n descriptions of a class in place of its prompt.

Zhang et al., arXiv 2602.12461. The descriptions take the place of the class prompt in the attack, in the cross-entropy
and in the attention map. With one description that is the class prompt, SAFT is TGA-ZSR (Yu et al., NeurIPS 2024).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zsr import files
from zsr.compute import rank
from zsr.data import descriptions
from zsr.data.prepared import Split
from zsr.methods._base import Batch, Method
from zsr.models.attention import map_distance, min_max, similarity
from zsr.models.heads import PixelClassifier
from zsr.models.passes import cross_entropy
from zsr.params import NonNegative, Rounds


@dataclass(frozen=True, kw_only=True)
class SAFT(Method):
    """Cross-entropy over the descriptions of all classes, on adversarial images, and two pulls of attention maps.

    Zhang et al., arXiv 2602.12461. The maps are those of TGA-ZSR as published, with the mean of the descriptions of the
    true class in place of its prompt.

    Attributes:
        needs_text: True, since a map compares patch tokens with descriptions.
        lambda_ar: weight of the pull on the attacked image's map, at least 0; alpha in the paper.
        lambda_amc: weight of the pull on the clean image's map, at least 0; beta in the paper.
        n_descriptions: number of descriptions of a class; n in the paper. The frozen text tower selects the
            descriptions with the largest cosines to the bare class name.
        descriptions: drawn: the project's sentences on the drawn glyphs. template: the class prompt alone. Else the
            name of a file in the folder `extensions`, see `zsr.data.descriptions`. A class with fewer than
            n_descriptions sentences gets its class prompt n_descriptions times.
        match: how a class finds its descriptions by its name, see `zsr.data.descriptions.found` (quirk SF4).
    """

    needs_text: ClassVar[bool] = True
    lambda_ar: NonNegative
    lambda_amc: NonNegative
    n_descriptions: Rounds
    descriptions: str
    match: Literal["exact", "published"]

    def __post_init__(self) -> None:
        if self.descriptions not in ("drawn", "template") and not self.descriptions.endswith(".json"):
            raise ValueError(
                "descriptions must be drawn, template, or the name of a .json file in the folder extensions, "
                f"got '{self.descriptions}'"
            )

    def refusal(self) -> str:
        """That the file of descriptions is not there."""
        path = descriptions.path_of(self.descriptions)
        if self.descriptions == "template" or path.is_file():
            return ""
        return f"{path} is not there; bring a file of descriptions in CuPL's format, or take the row out of methods"

    def descriptions_of(self, source: Split, text_embeddings: Tensor, embed: Callable[..., Tensor]) -> Tensor:
        """E: the selected descriptions, (n, C, D). Says on stderr which classes get their class prompt instead."""
        prompts = text_embeddings.expand(self.n_descriptions, -1, -1)
        if self.descriptions == "template":
            return prompts
        names = source.nouns
        texts = descriptions.found(descriptions.load(descriptions.path_of(self.descriptions)), names, self.match)
        missed = [name for name, sentences in zip(names, texts) if len(sentences) < self.n_descriptions]
        if missed and rank() == 0:
            files.say(
                f"{self.descriptions} has fewer than {self.n_descriptions} descriptions of {len(missed)} of "
                f"{len(names)} classes, which get their class prompt: {descriptions.listed(missed)}"
            )
        rows = [
            prompts[:, c] if len(sentences) < self.n_descriptions else self._selected(name, sentences, embed)
            for c, (name, sentences) in enumerate(zip(names, texts))
        ]
        return torch.stack(rows, dim=1)

    def inner_objective(self, model: PixelClassifier, batch: Batch) -> Callable[[Tensor], Tensor]:
        """The mean cross-entropy over the descriptions, (B, 3, H, W) -> (B,)."""
        return lambda adv: self._cross_entropy(model, model.image_features(adv), batch)

    def anchors(self, frozen: PixelClassifier, batch: Batch) -> Tensor:
        """Similarities that a_0 is made from, the frozen model's map of the clean image for the true class: (B, P)."""
        return similarity(frozen.tokens(batch.images), self._text(batch))

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """Cross-entropy on x', lambda_ar ||a(x') - a_0(x)|| and lambda_amc ||a(x) - a_0(x)||."""
        assert adv is not None and batch.anchors is not None
        anchors, text = min_max(batch.anchors), self._text(batch)

        def shift(tokens: Tensor) -> Tensor:
            return map_distance(min_max(similarity(tokens, text)), anchors, model.grid, model.image_size).mean()

        adv_tokens = model.tokens(adv)  # one forward serves the logits and the map
        return {
            "ce_adv": self._cross_entropy(model, model.pool(adv_tokens), batch).mean(),
            "attention_refinement": self.lambda_ar * shift(adv_tokens),
            "attention_constraint": self.lambda_amc * shift(model.tokens(batch.images)),
        }

    def _selected(self, name: str, sentences: Sequence[str], embed: Callable[..., Tensor]) -> Tensor:
        """The n sentences with the largest cosines to the bare class name, the largest first: (n, D)."""
        embedded = embed(list(sentences), distinct=False)
        cosines = embedded @ embed([name], distinct=False)[0]
        return embedded[cosines.sort(descending=True, stable=True).indices[: self.n_descriptions]]

    def _text(self, batch: Batch) -> Tensor:
        """The mean description of the true class, (B, D): the mean of n maps is the map of the mean."""
        assert batch.descriptions is not None
        return batch.descriptions[:, batch.labels].mean(dim=0)

    def _cross_entropy(self, model: PixelClassifier, image_features: Tensor, batch: Batch) -> Tensor:
        """The mean over n of the cross-entropy of s f(x) E_k', (B, D) -> (B,)."""
        assert batch.descriptions is not None
        n = len(batch.descriptions)
        logits = model.logit_scale * F.normalize(image_features, dim=-1) @ batch.descriptions.flatten(0, 1).T
        each = cross_entropy(logits.unflatten(1, (n, -1)).flatten(0, 1), batch.labels.repeat_interleave(n))
        return each.unflatten(0, (-1, n)).mean(dim=1)


METHOD = SAFT
