"""What every fine-tuning method is: hyper-parameters as fields, the loss as named terms."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor, nn

from zsr.losses import cross_entropy
from zsr.models.classifier import NormStats, PixelClassifier


@dataclass(frozen=True)
class Batch:
    """What a method sees of B samples.

    Attributes:
        images: (B, 3, H, W) in [0, 1].
        labels: numbers of the true classes, (B,) int64.
        anchors: this batch's rows of `Method.anchors`, (B, ...); None: the method has none.
        non_class: this batch's rows of the unit-norm embeddings of `Method.non_class_template`, (B, D); None: the
            method has no such template.
        joint: rows (B, ...) -> those of the step's whole batch, of which other processes may hold parts.
        nominal: how many images a full batch of the recipe has; None: as many as there are.
    """

    images: Tensor
    labels: Tensor
    anchors: Tensor | None = None
    non_class: Tensor | None = None
    joint: Callable[[Tensor], Tensor] = lambda rows: rows
    nominal: int | None = None

    def rows(self, which: slice) -> "Batch":
        """Some of its images, for losses that look at each image alone; the nominal size stays."""
        return replace(
            self,
            images=self.images[which],
            labels=self.labels[which],
            anchors=None if self.anchors is None else self.anchors[which],
            non_class=None if self.non_class is None else self.non_class[which],
            nominal=self.nominal or len(self.images),
        )


@dataclass(frozen=True, kw_only=True)
class Method:
    """The loop owns the attack, the optimiser and the logging; a method says what to minimise.

    Attributes:
        trains: False for a method that leaves the base model as it is.
        attacked: False where no adversarial image is used; `losses` is then given adv = None.
        in_batch: True where the loss compares the images of a batch with each other.
        needs_blocks: True where it looks into the residual blocks of a ViT.
        needs_text: True where it looks at class prompts or patch tokens, which a linear head does not have.
        needs_norm: True where it needs a tower with BatchNorm.
        non_class_template: a second prompt of every class, with {} for the class name; None: it needs none.
        norm_stats: the mean and std of pixels, in training and in evaluation.
    """

    trains: ClassVar[bool] = True
    attacked: ClassVar[bool] = True
    in_batch: ClassVar[bool] = False
    needs_blocks: ClassVar[bool] = False
    needs_text: ClassVar[bool] = False
    needs_norm: ClassVar[bool] = False
    non_class_template: ClassVar[str | None] = None
    norm_stats: NormStats = "clip"

    def prepare(self, visual: nn.Module) -> None:
        """Make the tower ready to be trained, in place. The frozen model has been copied before."""

    def finish(self, visual: nn.Module) -> None:
        """Bring a trained tower back to the modules that it had before `prepare`, in place."""

    def anchors(self, frozen: PixelClassifier, batch: Batch) -> Tensor | None:
        """Constants of the frozen model and the clean image, (B, ...), computed once per image; None: it has none."""
        return None

    def fold(self, term: str) -> Literal["mean", "sum", "whole"]:
        """How values of a term over parts of a batch make that of the batch: their mean, weighted by images, or sum.

        whole: every part gives the value of the batch, by way of `Batch.joint`.
        """
        return "whole" if self.in_batch else "mean"

    def inner_objective(self, model: PixelClassifier, batch: Batch) -> Callable[[Tensor], Tensor]:
        """What the training attack raises, (B, 3, H, W) -> (B,): cross-entropy over all class prompts."""
        return lambda adv: cross_entropy(model(adv), batch.labels)

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """Named, weighted scalar terms; the loop minimises their sum."""
        raise NotImplementedError
