"""TeCoA: text-guided contrastive adversarial training. Mao et al., ICLR 2023."""

from dataclasses import dataclass

from torch import Tensor

from zsr.methods._base import Batch, Method
from zsr.models.heads import PixelClassifier
from zsr.models.passes import cross_entropy


@dataclass(frozen=True, kw_only=True)
class TeCoA(Method):
    """Cross-entropy over all class prompts, on adversarial images. Mao et al., ICLR 2023. It has no params."""

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """Cross-entropy on x', the mean over images."""
        assert adv is not None
        return {"ce_adv": cross_entropy(model(adv), batch.labels).mean()}


METHOD = TeCoA
