"""FT: cross-entropy on clean images, over class prompts or a linear head. What the transfer study calls fine-tuning.

"Pre-training also transfers non-robustness", AAAI 2023.
"""

from dataclasses import dataclass
from typing import ClassVar

from zsr.losses import cross_entropy
from zsr.methods._base import Method


@dataclass(frozen=True, kw_only=True)
class FT(Method):
    attacked: ClassVar[bool] = False

    def losses(self, model, frozen, batch, adv):
        return {"ce_clean": cross_entropy(model(batch.images), batch.labels).mean()}


METHOD = FT
