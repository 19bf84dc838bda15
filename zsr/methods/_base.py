"""What every fine-tuning method is: hyper-parameters as fields, the loss as named terms."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zsr.losses import cross_entropy
from zsr.models.classifier import Classifier


@dataclass(frozen=True)
class Batch:
    """images: (B, 3, H, W) in [0, 1]. labels: (B,). anchors: this batch's rows of `Method.anchors`, or None."""

    images: Tensor
    labels: Tensor
    anchors: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Method:
    """The loop owns the attack, the optimiser and the logging; a method says what to minimise.

    trains: False for a method that leaves the base model as it is. attacked: False where no adversarial image
    is used; `losses` is then given adv = None.
    """

    trains: ClassVar[bool] = True
    attacked: ClassVar[bool] = True

    def anchors(self, frozen: Classifier, images: Tensor, labels: Tensor) -> Tensor | None:
        """Constants of the frozen model and the clean image, (B, K), computed once per image; None: it has none."""
        return None

    def inner_objective(self, model: Classifier, batch: Batch) -> Callable[[Tensor], Tensor]:
        """What the training attack raises, (B, 3, H, W) -> (B,): cross-entropy over all class prompts."""
        return lambda adv: cross_entropy(model(adv), batch.labels)

    def losses(self, model: Classifier, frozen: Classifier, batch: Batch, adv: Tensor | None) -> dict[str, Tensor]:
        """Named, weighted scalar terms; the loop minimises their sum."""
        raise NotImplementedError
