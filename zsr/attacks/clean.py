"""No attack: accuracy on the clean images."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zsr.attacks.batch import Noise
from zsr.models.passes import Model


@dataclass(frozen=True, kw_only=True)
class Clean:
    """The attack that changes nothing.

    Attributes:
        eps: 0, since no pixel changes.
    """

    eps: ClassVar[float] = 0.0

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise | None = None, batch_size: int | None = None
    ) -> Tensor:
        """Return the images."""
        return images

    def protocol(self) -> str:
        """The attack's part of a protocol: the facts to report with every number."""
        return "no attack"


ATTACK = Clean
