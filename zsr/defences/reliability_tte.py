"""A mean of the logits of augmented views, in which views that resemble others weigh more.

This is R-TPT (CVPR 2025) without its step on the prompt: the step needs the text tower at test time, and the mean does
not.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from zsr.attacks.batch import Noise
from zsr.defences import _views
from zsr.defences._base import Condition, Defence, Tower, straight_through
from zsr.params import Interval, Positive, Rounds

SMALLEST = 0.08  # the smallest share of the image's area in a crop


@dataclass(frozen=True, kw_only=True)
class ReliabilityTTE(Defence):
    """The weighted mean of the logits of an image and its views.

    Attributes:
        views: number of views beside the image; 0: the undefended model.
        neighbours: number of the most similar views. The mean cosine with them is the reliability of a view.
        temperature: the weights are a softmax of the reliabilities over this number.
        augmix: True: views are crops under AugMix. False: views are crops.
        exclude: self: a view is no neighbour of itself. published: a view has no neighbour with a cosine of 1 or more.
            Rounding may leave the cosine of a view with itself below 1 (quirk R1).
    """

    views: Annotated[int, Interval(0, 1000)] = 63
    neighbours: Rounds = 20
    temperature: Positive = 0.01
    augmix: bool = True
    exclude: Literal["self", "published"] = "self"
    name: ClassVar[str] = "reliability_tte"
    title: ClassVar[str] = "reliability-weighted views"
    deterministic: ClassVar[bool] = False
    violates: ClassVar[tuple[Condition, ...]] = ("deterministic",)

    def logits(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> Tensor:
        """The weighted mean of logits, (B, C)."""
        return self._logits(model, self.views_of(images, noise, draw, _views.unchanged))

    def surrogate(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> Tensor:
        """`logits` of views that pass a gradient on. The weights pass a gradient on, too."""
        return self._logits(model, self.views_of(images, noise, draw, straight_through))

    def statistics(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> dict[str, Tensor]:
        """The weight of the image itself among its views, (B,)."""
        views = self.views_of(images, noise, draw, _views.unchanged)
        return {"own_weight": self.weights(_views.unit_features(model, views))[:, 0]}

    def views_of(self, images: Tensor, noise: Noise, draw: int, through: _views.Through) -> Tensor:
        """The image and its views, (B, 1 + views, 3, H, W)."""
        if not self.views:
            return images[:, None]
        uniform = noise.uniform((self.views, _views.PER_CROP), self.stream(draw, "crops"))
        views = _views.crops(images, uniform, SMALLEST)
        if self.augmix:
            uniform = noise.uniform((self.views, _views.PER_MIX), self.stream(draw, "augmix"))
            views = _views.augmixed(views, uniform, through)
        return torch.cat([images[:, None], views], dim=1)

    def _logits(self, model: Tower, views: Tensor) -> Tensor:
        features = model.image_features(views.flatten(0, 1))
        logits = model.classify(features).unflatten(0, views.shape[:2])
        weights = self.weights(torch.nn.functional.normalize(features, dim=-1).unflatten(0, views.shape[:2]))
        return (weights[..., None] * logits).sum(dim=1)

    def weights(self, features: Tensor) -> Tensor:
        """The weights of views from their unit features, (B, V, D) -> (B, V). They sum to 1."""
        n = features.shape[1]
        if n == 1:
            return torch.ones_like(features[..., 0])
        cosines = features @ features.mT
        if self.exclude == "self":
            others = cosines.masked_fill(torch.eye(n, dtype=torch.bool, device=cosines.device), -torch.inf)
        else:
            others = cosines.masked_fill(cosines >= 1, 0.0)
        nearest = others.topk(min(self.neighbours, n - 1), dim=-1)[0]
        return (nearest.mean(dim=-1) / self.temperature).softmax(dim=-1)


DEFENCE = ReliabilityTTE
