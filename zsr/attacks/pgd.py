"""PGD: projected sign-gradient ascent in an l-infinity ball. Madry et al., ICLR 2018."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zsr.attacks._noise import Noise
from zsr.losses import cross_entropy
from zsr.params import Count, PixelRange


@dataclass(frozen=True, kw_only=True)
class PGD:
    """The last iterate of n_iter steps; one start, uniform in the ball or at the image."""

    eps: PixelRange  # in units of the pixel range [0, 1]
    step_size: PixelRange
    n_iter: Count
    random_start: bool

    def __call__(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        """Adversarial images for a classifier of pixels: (B, 3, H, W) in [0, 1] -> the same shape, in the ball."""
        return self.maximise(lambda adv: cross_entropy(model(adv), labels), images, noise)

    def maximise(self, objective: Callable[[Tensor], Tensor], images: Tensor, noise: Noise) -> Tensor:
        """Images in the ball, and in [0, 1], that raise objective: (B, 3, H, W) -> (B,).

        The objective is summed, so images do not interact, and differentiated by the images alone, so no
        parameter's .grad is touched (quirks S1 and S2 of the published code).
        """
        lower, upper = (images - self.eps).clamp(min=0), (images + self.eps).clamp(max=1)
        adv = images
        if self.random_start:
            start = noise.uniform(images.shape[1:], "pgd").to(images)
            adv = (images + self.eps * start).clamp(lower, upper)
        for _ in range(self.n_iter):
            adv = adv.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(objective(adv).sum(), adv)
            adv = (adv.detach() + self.step_size * gradient.sign()).clamp(lower, upper)
        return adv

    def protocol(self) -> str:
        """The facts that travel with every number of this attack."""
        start = "random start" if self.random_start else "start at the image"
        return (
            f"PGD l-inf, eps {255 * self.eps:g}/255, step {255 * self.step_size:g}/255, {self.n_iter} iterations, "
            f"{start}, 1 restart, last iterate, summed cross-entropy"
        )


ATTACK = PGD
