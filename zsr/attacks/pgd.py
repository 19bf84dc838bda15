"""PGD: projected sign-gradient ascent in an l-infinity ball. Madry et al., ICLR 2018."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zsr.attacks._sign_attack import SignAttack
from zsr.losses import cross_entropy


@dataclass(frozen=True, kw_only=True)
class PGD(SignAttack):
    title: ClassVar[str] = "PGD"
    loss: ClassVar[str] = "cross-entropy"

    def scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy."""
        return cross_entropy(logits, labels)


ATTACK = PGD
