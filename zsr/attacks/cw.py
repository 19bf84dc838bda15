"""The "CW" of the robust CLIP literature: PGD on the margin of Carlini and Wagner, S&P 2017, f6 in section V-A."""

from dataclasses import dataclass

from torch import Tensor

from zsr.attacks._noise import Noise
from zsr.attacks._passes import Model, differentiate
from zsr.losses import margin
from zsr.params import Count, NonNegative, PixelRange


@dataclass(frozen=True, kw_only=True)
class CW:
    """The last iterate of n_iter steps; one start, uniform in the ball or at the image."""

    eps: PixelRange  # in units of the pixel range [0, 1]
    step_size: PixelRange
    n_iter: Count
    random_start: bool
    kappa: NonNegative  # an image is pushed on until the best wrong logit leads by so much

    def __call__(self, model: Model, images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        """Adversarial images for a classifier of pixels: (B, 3, H, W) in [0, 1] -> the same shape, in the ball."""
        lower, upper = (images - self.eps).clamp(min=0), (images + self.eps).clamp(max=1)
        adv = images
        if self.random_start:
            adv = (images + self.eps * noise.uniform(images.shape[1:], "cw").to(images)).clamp(lower, upper)
        for _ in range(self.n_iter):
            _, _, gradient = differentiate(model, adv, lambda logits: -(margin(logits, labels) + self.kappa).relu())
            adv = (adv + self.step_size * gradient.sign()).clamp(lower, upper)
        return adv

    def protocol(self) -> str:
        """The facts that travel with every number of this attack."""
        start = "random start" if self.random_start else "start at the image"
        return (
            f"CW as PGD l-inf, eps {255 * self.eps:g}/255, step {255 * self.step_size:g}/255, kappa {self.kappa:g}, "
            f"{self.n_iter} iterations, {start}, 1 restart, last iterate, summed margin, gradient fp32"
        )


ATTACK = CW
