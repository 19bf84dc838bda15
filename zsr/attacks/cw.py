"""The "CW" of the robust CLIP literature: PGD on the margin of Carlini and Wagner, S&P 2017, f6 in section V-A."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zsr.attacks.pgd import SignAttack
from zsr.models.passes import margin
from zsr.params import NonNegative


@dataclass(frozen=True, kw_only=True)
class CW(SignAttack):
    """PGD on the margin between the best wrong logit and the true one.

    Attributes:
        kappa: the attack goes on until the best wrong logit exceeds the true logit by kappa, at least 0.
        title: name of the attack in the protocol.
        stream: name of the attack's random numbers.
    """

    kappa: NonNegative = 50.0
    title: ClassVar[str] = "CW as PGD"
    stream: ClassVar[str] = "cw"

    @property
    def loss(self) -> str:
        """Name of the objective in the protocol."""
        return f"the margin, kappa {self.kappa:g},"

    def scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Minus the margin, but constant where the margin is below -kappa."""
        return -(margin(logits, labels) + self.kappa).relu()


ATTACK = CW
