"""Random noise: uniform noise on the pixels, the part of a counterattack that is no attack."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zsr.attacks.batch import Noise
from zsr.defences._base import Condition, Defence, Tower
from zsr.params import PixelRangeOrZero


@dataclass(frozen=True, kw_only=True)
class RandomNoise(Defence):
    """Uniform noise on every pixel; TTC without a step of its counterattack.

    Attributes:
        eps: the largest change of a pixel, in units of the pixel range [0, 1]; 0: no noise.
    """

    eps: PixelRangeOrZero = 4 / 255
    name: ClassVar[str] = "random_noise"
    title: ClassVar[str] = "random noise"
    deterministic: ClassVar[bool] = False
    violates: ClassVar[tuple[Condition, ...]] = ("deterministic",)
    needs_features: ClassVar[bool] = False

    def logits(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> Tensor:
        """The logits of the noisy images, (B, C)."""
        return model((images + self.eps * noise.uniform(images.shape[1:], self.stream(draw)).to(images)).clamp(0, 1))

    def surrogate(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> Tensor:
        """The logits themselves, which are differentiable."""
        return self.logits(model, images, noise, draw)


DEFENCE = RandomNoise
