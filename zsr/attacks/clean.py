"""No attack: accuracy on the images as they are."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zsr.models.passes import Model
from zsr.noise import Noise


@dataclass(frozen=True, kw_only=True)
class Clean:
    """The images as they are.

    Attributes:
        eps: no pixel moves, so 0.
    """

    eps: ClassVar[float] = 0.0

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise, batch_size: int | None = None
    ) -> Tensor:
        """The images."""
        return images

    def protocol(self) -> str:
        """The facts that travel with every number."""
        return "no attack"


ATTACK = Clean
