"""DBD: the image feature moves along the direction in which augmented views differ from the image.

ICLR 2026, arXiv 2606.06186. One pass makes 31 views of an image. The views with the surest predictions give a
direction. The feature of the image moves along the mean difference to these views, and beyond it where the views agree
on the direction.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zsr.attacks.batch import Noise
from zsr.defences import _views
from zsr.defences._base import AS_IS, Condition, Defence, Tower, straight_through
from zsr.params import Interval, NonNegative, Rounds

CROPS, SMALLEST = 16, 0.5  # number of crops, and the smallest share of the image's area in a crop
BITS = 3  # of the coarse views
QUALITIES = (50, 60, 75)  # of the JPEG views
NOISY, SIGMA = 6, 0.1  # number of views with noise, and its standard deviation
VIEWS = CROPS + 3 + len(QUALITIES) + NOISY + 3
PLAIN, BOOSTED, BELOW = "kappa_1", "kappa_boost", "below_threshold"


@dataclass(frozen=True, kw_only=True)
class DBD(Defence):
    """The feature of the image plus kappa times the mean difference to its surest views.

    Attributes:
        views: number of views beside the image, the first ones of the fixed order; 0: the undefended model.
        selected: number of views, those of the lowest entropy, that give the direction (quirk D6).
        threshold: the agreement of the views, a cosine, above which kappa is `boost` and not 1 (quirk D6).
        boost: kappa above the threshold. With kappa 1 the feature is the mean of the selected views (quirk D6).
        kernel: side of the filters in pixels, an odd number. The published 5 is for images of 224 pixels.
        overflow: what becomes of a grey level of 256 in a coarse view. clip: 255. published: 0, so white turns black
            (quirk D1).
        quantise: none: pixels stay as the attack made them. floor: pixels are cut to whole grey levels, as in images
            that are stored by truncation (quirk D3).
    """

    views: Annotated[int, Interval(0, VIEWS)] = VIEWS
    selected: Rounds = 16
    threshold: Annotated[float, Interval(-2, 2)] = 0.8
    boost: NonNegative = 2.5
    kernel: Annotated[int, Interval(1, 31)] = 5
    overflow: Literal["clip", "published"] = "clip"
    quantise: Literal["none", "floor"] = "none"
    name: ClassVar[str] = "dbd"
    title: ClassVar[str] = "DBD"
    deterministic: ClassVar[bool] = False
    violates: ClassVar[tuple[Condition, ...]] = ("deterministic",)
    variants: ClassVar[tuple[str, ...]] = (AS_IS, PLAIN, BOOSTED, BELOW)
    needs_text: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel: {self.kernel} is even, and the side of a filter must be odd")

    def logits(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> Tensor:
        """Logits of the moved feature, (B, C)."""
        return self._logits(model, images, self.views_of(images, noise, draw, _views.unchanged))[0]

    def surrogate(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> Tensor:
        """`logits` of views that pass a gradient on. The choice of views and kappa are constants of the draw."""
        return self._logits(model, images, self.views_of(images, noise, draw, straight_through))[0]

    def adaptive(
        self, model: Tower, images: Tensor, noise: Noise, draw: int, variant: str
    ) -> tuple[Tensor, Tensor | None]:
        """The attack of a name in `variants`.

        as_is: the surrogate. kappa_1, kappa_boost: the surrogate with this kappa for every image, since the switch of
        kappa passes no gradient on. below_threshold: the surrogate, and a term that drives the agreement down.
        """
        kappa = {PLAIN: 1.0, BOOSTED: self.boost}.get(variant)
        views = self.views_of(images, noise, draw, straight_through)
        logits, agreement = self._logits(model, images, views, kappa)
        return logits, self.threshold - agreement if variant == BELOW else None

    def statistics(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> dict[str, Tensor]:
        """The agreement of the views, (B,)."""
        return {"agreement": self._logits(model, images, self.views_of(images, noise, draw, _views.unchanged))[1]}

    def views_of(self, images: Tensor, noise: Noise, draw: int, through: _views.Through) -> Tensor:
        """The image and its views in the published order, (B, 1 + views, 3, H, W)."""
        if self.quantise == "floor":
            images = _views.whole_greys(images, through)
        uniform = noise.uniform((CROPS, _views.PER_CROP), self.stream(draw, "crops"))
        normal = noise.normal((NOISY, *images.shape[1:]), self.stream(draw, "noise"))
        parts = [
            images[:, None],
            _views.crops(images, uniform, SMALLEST),
            _views.coarse(images, BITS, self.overflow == "published", through),
            _views.jpeg(images, QUALITIES, through),
            _views.noisy(images, normal, SIGMA, through),
            _views.filtered(images, self.kernel, through),
        ]
        return torch.cat(parts, dim=1)[:, : 1 + self.views]

    def _logits(self, model: Tower, images: Tensor, views: Tensor, kappa: float | None = None) -> tuple[Tensor, Tensor]:
        """Logits (B, C) and agreement (B,). kappa: for every image; None: by the threshold."""
        if not self.views:
            return model(images), torch.zeros(len(images)).to(images)
        features = _views.unit_features(model, views)
        rows = surest(model.classify(features[:, 1:]), self.selected)
        shift, agreement = direction(features[:, 0], features[:, 1:].gather(1, wide(rows, features)))
        by_threshold = torch.where(agreement > self.threshold, self.boost, 1.0)
        kappas = by_threshold if kappa is None else torch.full_like(agreement, kappa)
        return model.classify(features[:, 0] + kappas[:, None] * shift), agreement


def surest(logits: Tensor, n: int) -> Tensor:
    """The numbers of the n views of lowest entropy, of equal ones the first: (B, V, C) -> (B, at most n)."""
    entropies = torch.distributions.Categorical(logits=logits.detach(), validate_args=False).entropy()
    return entropies.argsort(dim=1, stable=True)[:, :n]


def direction(feature: Tensor, selected: Tensor) -> tuple[Tensor, Tensor]:
    """The mean difference of views to the image, (B, D), and the mean cosine of a difference with it, (B,).

    feature: (B, D). selected: features of the selected views, (B, K, D).
    """
    differences = selected - feature[:, None]
    shift = differences.mean(dim=1)
    return shift, F.cosine_similarity(differences, shift[:, None], dim=-1).mean(dim=1)


def wide(rows: Tensor, features: Tensor) -> Tensor:
    """The numbers of views, (B, K), for every entry of their features: (B, K, D)."""
    return rows[..., None].expand(-1, -1, features.shape[-1])


DEFENCE = DBD
