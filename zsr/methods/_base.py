"""What every fine-tuning method is: hyper-parameters as fields, the loss as named terms."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zsr.losses import cross_entropy
from zsr.models.classifier import Classifier
from zsr.models.pixels import NormStats


@dataclass(frozen=True)
class Batch:
    """images: (B, 3, H, W) in [0, 1]. labels: (B,). anchors: this batch's rows of `Method.anchors`, or None.

    non_class: this batch's rows of the unit-norm embeddings of `Method.non_class_template`, (B, D), or None.
    """

    images: Tensor
    labels: Tensor
    anchors: Tensor | None = None
    non_class: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Method:
    """The loop owns the attack, the optimiser and the logging; a method says what to minimise.

    trains: False for a method that leaves the base model as it is. attacked: False where no adversarial image
    is used; `losses` is then given adv = None. non_class_template: a second prompt of every class, if it needs one.
    """

    trains: ClassVar[bool] = True
    attacked: ClassVar[bool] = True
    non_class_template: ClassVar[str | None] = None
    norm_stats: NormStats = "clip"  # the mean and std of pixels, in training and in evaluation

    def anchors(self, frozen: Classifier, batch: Batch) -> Tensor | None:
        """Constants of the frozen model and the clean image, (B, ...), computed once per image; None: it has none."""
        return None

    def inner_objective(self, model: Classifier, batch: Batch) -> Callable[[Tensor], Tensor]:
        """What the training attack raises, (B, 3, H, W) -> (B,): cross-entropy over all class prompts."""
        return lambda adv: cross_entropy(model(adv), batch.labels)

    def losses(self, model: Classifier, frozen: Classifier, batch: Batch, adv: Tensor | None) -> dict[str, Tensor]:
        """Named, weighted scalar terms; the loop minimises their sum."""
        raise NotImplementedError
