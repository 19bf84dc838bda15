"""No attack: accuracy on the images as they are."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zsr.attacks._noise import Noise
from zsr.attacks._passes import Model


@dataclass(frozen=True, kw_only=True)
class Clean:
    eps: ClassVar[float] = 0.0

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise, batch_size: int | None = None
    ) -> Tensor:
        """The images."""
        return images

    def protocol(self) -> str:
        return "no attack"


ATTACK = Clean
