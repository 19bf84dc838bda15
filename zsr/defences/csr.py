"""CSR: an image whose feature differs from that of its low frequencies is moved until its feature does not.

arXiv 2601.19210.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from zsr.attacks.batch import Noise, wide
from zsr.defences._base import AS_IS, Condition, Defence, Tower, straight_through
from zsr.models.passes import differentiate
from zsr.params import Interval, IterationsOrNone, PixelRange, Positive

GATE = "gate"
GATE_WEIGHT = 10.0  # of the gate beside the loss of the attack


@dataclass(frozen=True, kw_only=True)
class CSR(Defence):
    """Sign descent towards the feature of the low frequencies and away from the feature of the image.

    Attributes:
        threshold: an image is corrected where its feature has a lower cosine with the feature of its low frequencies.
        cutoff: standard deviation of the Gaussian low pass, in cycles per pixel; 40 cycles of 224 pixels are published.
        eps: radius of the ball around the image.
        step_size: size of every step of the correction.
        n_iter: number of steps; 0: the undefended model.
    """

    threshold: Annotated[float, Interval(-1, 1)] = 0.85
    cutoff: Positive = 40 / 224
    eps: PixelRange = 4 / 255
    step_size: PixelRange = 2 / 255
    n_iter: IterationsOrNone = 3
    name: ClassVar[str] = "csr"
    title: ClassVar[str] = "CSR"
    deterministic: ClassVar[bool] = True
    violates: ClassVar[tuple[Condition, ...]] = ("no_inner_loop",)
    variants: ClassVar[tuple[str, ...]] = (AS_IS, GATE)

    def logits(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> Tensor:
        """Logits of the corrected image, (B, C)."""
        return model(images + self.correction(model, images))

    def surrogate(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> Tensor:
        """`logits` with the correction as a constant."""
        return model(straight_through(images, images.detach() + self.correction(model, images.detach())))

    def adaptive(
        self, model: Tower, images: Tensor, noise: Noise, draw: int, variant: str
    ) -> tuple[Tensor, Tensor | None]:
        """as_is: the surrogate. gate: the surrogate, and a term that raises the cosine until nothing is corrected."""
        logits = self.surrogate(model, images, noise, draw)
        if variant != GATE:
            return logits, None
        return logits, GATE_WEIGHT * (self.stability(model, images) - self.threshold).clamp(max=0)

    def statistics(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> dict[str, Tensor]:
        """The cosine that the threshold is compared with, (B,)."""
        return {"stability": self.stability(model, images)}

    def stability(self, model: Tower, images: Tensor) -> Tensor:
        """The cosine of the features of the image and of its low frequencies, (B,)."""
        return cosine(model.image_features(images), model.image_features(self.low_pass(images)))

    def low_pass(self, images: Tensor) -> Tensor:
        """The low frequencies of each channel, in [0, 1]: (B, 3, H, W)."""
        rows, columns = (torch.fft.fftfreq(size, device=images.device) for size in images.shape[-2:])
        mask = torch.exp(-(rows[:, None].square() + columns.square()) / (2 * self.cutoff**2))
        return torch.fft.ifft2(torch.fft.fft2(images) * mask).real.clamp(0, 1)

    def correction(self, model: Tower, images: Tensor) -> Tensor:
        """What the defence adds to the images, without a gradient: (B, 3, H, W)."""
        images = images.detach()
        with torch.no_grad():
            own, low = (model.image_features(pixels) for pixels in (images, self.low_pass(images)))
        rows = (cosine(own, low) < self.threshold).nonzero().squeeze(1)
        correction = torch.zeros_like(images)
        if len(rows):
            correction[rows] = self._best(model, images[rows], own[rows], low[rows]) - images[rows]
        return correction

    @torch.no_grad()
    def _best(self, model: Tower, images: Tensor, own: Tensor, low: Tensor) -> Tensor:
        """The best point that the steps visit, the image and the last point included."""

        def score(features: Tensor) -> Tensor:
            return cosine(features, low) - cosine(features, own)

        best, point, highest = images, images, torch.full((len(images),), -torch.inf).to(images)
        for _ in range(self.n_iter):
            _, scores, gradient = differentiate(model.image_features, point, score)
            best, highest = torch.where(wide(scores > highest), point, best), scores.maximum(highest)
            further = point + self.step_size * gradient.sign()
            point = further.clamp((images - self.eps).clamp(min=0), (images + self.eps).clamp(max=1))
        return torch.where(wide(score(model.image_features(point)) > highest), point, best)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """The cosine of vectors, (B, D), (B, D) -> (B,)."""
    return (F.normalize(first, dim=-1) * F.normalize(second, dim=-1)).sum(dim=-1)


DEFENCE = CSR
