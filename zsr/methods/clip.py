"""CLIP: the base model without training, the undefended row of every table. Radford et al., ICML 2021."""

from dataclasses import dataclass
from typing import ClassVar

from zsr.methods._base import Method


@dataclass(frozen=True, kw_only=True)
class CLIP(Method):
    """The base model, without any training.

    Radford et al., ICML 2021.

    Attributes:
        trains: False.
        attacked: False, since there is no training.
    """

    trains: ClassVar[bool] = False
    attacked: ClassVar[bool] = False


METHOD = CLIP
