"""TeCoA: text-guided contrastive adversarial training. Mao et al., ICLR 2023."""

from dataclasses import dataclass

from zsr.losses import cross_entropy
from zsr.methods._base import Method


@dataclass(frozen=True, kw_only=True)
class TeCoA(Method):
    def losses(self, model, frozen, batch, adv):
        return {"ce_adv": cross_entropy(model(adv), batch.labels).mean()}


METHOD = TeCoA
