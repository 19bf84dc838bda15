"""What APGD needs to know of a norm. Images are (B, 3, H, W) in [0, 1]."""

from dataclasses import dataclass

from torch import Tensor

from zsr.attacks._noise import Noise

TINY = 1e-12


@dataclass(frozen=True)
class Linf:
    eps: float

    def start(self, images: Tensor, noise: Noise, stream: str) -> Tensor:
        """A random point with one coordinate on the face of the ball."""
        draw = noise.uniform(images.shape[1:], stream).to(images)
        return (images + self.eps * (draw / (draw.abs().amax((1, 2, 3), keepdim=True) + TINY))).clamp(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def project(self, x: Tensor, images: Tensor) -> Tensor:
        """The point of the ball around the images, and of [0, 1], that is nearest to x."""
        return x.clamp(images - self.eps, images + self.eps).clamp(0, 1)


@dataclass(frozen=True)
class L2:
    eps: float

    def start(self, images: Tensor, noise: Noise, stream: str) -> Tensor:
        """A random point on the sphere."""
        draw = noise.normal(images.shape[1:], stream).to(images)
        return (images + self.eps * self.direction(draw)).clamp(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient / (_length(gradient) + TINY)

    def project(self, x: Tensor, images: Tensor) -> Tensor:
        """Back along the ray to the ball around the images, then into [0, 1], which only shortens the way."""
        delta = x - images
        length = _length(delta)
        return (images + delta / (length + TINY) * length.clamp(max=self.eps)).clamp(0, 1)


def _length(x: Tensor) -> Tensor:
    return x.square().sum((1, 2, 3), keepdim=True).sqrt()


BALLS = {"linf": Linf, "l2": L2}
