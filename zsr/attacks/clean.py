"""No attack: accuracy on the images as they are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zsr.attacks._noise import Noise


@dataclass(frozen=True, kw_only=True)
class Clean:
    eps: ClassVar[float] = 0.0

    def __call__(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        return images

    def protocol(self) -> str:
        return "no attack"


ATTACK = Clean
