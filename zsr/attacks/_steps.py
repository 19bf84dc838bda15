"""Steps of fixed size along the sign of a gradient, in an l-infinity ball. Madry et al., ICLR 2018."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from zsr.attacks._noise import Noise
from zsr.models.numerics import HALF, Precision, products
from zsr.params import Count, NonNegative, PixelRange


@dataclass(frozen=True, kw_only=True)
class Steps:
    """n_iter steps from one start: at the image, uniform in the ball, or Gaussian around the image."""

    eps: PixelRange  # in units of the pixel range [0, 1]
    step_size: PixelRange
    n_iter: Count
    random_start: bool
    precision: Precision  # of the gradient; fp16 autocast without loss scaling: quirk S2
    reduction: Literal["sum", "mean"]  # over the batch; under fp16 the mean underflows with the batch (quirk S2)
    clip_start: bool = True  # False: the first forward may see pixels outside [0, 1], as in FARE
    init_sigma: NonNegative = 0.0  # standard deviation of a Gaussian random start, cut at the ball; 0: uniform
    stream: ClassVar[str] = "pgd"  # of noise

    def __post_init__(self):
        if self.init_sigma and not self.random_start:
            raise ValueError(f"init_sigma: {self.init_sigma:g} needs random_start: true")

    def maximise(self, objective: Callable[[Tensor], Tensor], images: Tensor, noise: Noise) -> Tensor:
        """The last point, in the ball and in [0, 1], of an ascent of objective: (B, 3, H, W) -> (B,)."""
        adv = self.start(images, noise)
        with products(images.device, self.precision):
            for _ in range(self.n_iter):
                leaf = adv.detach().requires_grad_()
                adv = self.moved(adv, self.ascent(objective, leaf), images)
        return adv

    def start(self, images: Tensor, noise: Noise) -> Tensor:
        if not self.random_start:
            return images
        adv = images + self._offset(noise.uniform(images.shape[1:], self.stream).to(images))
        return self._projected(adv, images) if self.clip_start else adv

    def _offset(self, uniform: Tensor) -> Tensor:
        """Where a random start lies, of numbers uniform on [-1, 1); a Gaussian's are those of the same rank."""
        if not self.init_sigma:
            return self.eps * uniform
        return (2**0.5 * self.init_sigma * torch.erfinv(uniform)).clamp(-self.eps, self.eps)

    def moved(self, adv: Tensor, gradient: Tensor, images: Tensor) -> Tensor:
        """The next point."""
        return self._projected(adv + self.step_size * gradient.sign(), images)

    def ascent(self, objective: Callable[[Tensor], Tensor], adv: Tensor) -> Tensor:
        """Gradient of the objective by the images alone, so that no parameter's .grad is touched (quirk S1)."""
        return torch.autograd.grad(self.reduced(objective, adv), adv)[0]

    def reduced(self, objective: Callable[[Tensor], Tensor], adv: Tensor) -> Tensor:
        """The scalar that is differentiated. Summed, images do not interact."""
        with torch.autocast(adv.device.type, HALF.get(self.precision), enabled=self.precision in HALF):
            scores = objective(adv)
        return scores.sum() if self.reduction == "sum" else scores.mean()

    def _projected(self, adv: Tensor, images: Tensor) -> Tensor:
        return adv.clamp((images - self.eps).clamp(min=0), (images + self.eps).clamp(max=1))

    def facts(self) -> str:
        """What stands in a protocol."""
        start = "random start" if self.random_start else "start at the image"
        start = f"Gaussian start of {255 * self.init_sigma:g}/255" if self.init_sigma else start
        start += "" if self.clip_start else " not clipped to [0, 1]"
        return (
            f"l-inf, eps {255 * self.eps:g}/255, step {255 * self.step_size:g}/255, {self.n_iter} iterations, "
            f"{start}, 1 restart, gradient {self.precision}"
        )
