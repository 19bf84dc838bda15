"""The base class of fine-tuning methods: hyper-parameters are fields, the loss is a set of named terms."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor, nn

from zsr.data.prepared import Split
from zsr.models.heads import NormStats, PixelClassifier
from zsr.models.passes import cross_entropy
from zsr.params import StudyError


@dataclass(frozen=True)
class Batch:
    """The data of B samples for a method.

    Attributes:
        images: (B, 3, H, W) in [0, 1].
        labels: numbers of the true classes, (B,) int64.
        anchors: rows of `Method.anchors` for this batch, (B, ...); None: the method has no anchors.
        non_class: unit-norm text embeddings of `Method.non_class_template` for the labels, (B, D); None: the method
            has no such template.
        descriptions: unit-norm text embeddings of n descriptions of every class, (n, C, D), see
            `Method.descriptions_of`; None: the method reads no descriptions.
        joint: gathers rows, (B, ...) -> the rows of the step's whole batch. Other processes may hold parts of it.
        nominal: number of images in a full batch of the recipe; None: the number of images in this batch.
    """

    images: Tensor
    labels: Tensor
    anchors: Tensor | None = None
    non_class: Tensor | None = None
    descriptions: Tensor | None = None
    joint: Callable[[Tensor], Tensor] = lambda rows: rows
    nominal: int | None = None

    def rows(self, which: slice) -> "Batch":
        """A batch of some of the images, for losses that treat each image alone. The nominal size stays."""
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
    """A fine-tuning method. It defines the loss; the training loop owns the attack, the optimiser and the logging.

    Attributes:
        trains: False for a method that leaves the base model as it is.
        attacked: False where the loss uses no adversarial image; `losses` then gets adv = None.
        in_batch: True where the loss compares the images of a batch with each other.
        needs_blocks: True where the loss reads the residual blocks of a ViT.
        needs_text: True where the loss reads class prompts or patch tokens, which a linear head does not have.
        needs_norm: True where the method needs a tower with BatchNorm.
        non_class_template: a second prompt of every class, with {} for the class name; None: no second prompt.
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

    def load(self, whole: nn.Module, arch: str) -> None:
        """Load the weights of a method that brings its own into an open_clip model of the name arch, in place."""

    def prepare(self, visual: nn.Module) -> None:
        """Prepare the tower for training, in place. The frozen model is a copy from before this call."""

    def finish(self, visual: nn.Module) -> None:
        """Restore the modules that the tower had before `prepare`, in place, with the trained weights."""

    def refusal(self) -> str:
        """Why the method cannot be trained here, such as a file that is not there; "": the method can be trained."""
        return ""

    def descriptions_of(self, source: Split, text_embeddings: Tensor, embed: Callable[..., Tensor]) -> Tensor | None:
        """Text embeddings of n descriptions of every class, (n, C, D), unit norm; None: the method reads none.

        text_embeddings: text embeddings of the class prompts, (C, D). embed: prompts -> (N, D), see
        `zsr.models.clip.embed_texts`.
        """
        return None

    def anchors(self, frozen: PixelClassifier, batch: Batch) -> Tensor | None:
        """Constants of the frozen model and the clean image, (B, ...), computed once per image; None: no anchors."""
        return None

    def fold(self, term: str) -> Literal["mean", "sum", "whole"]:
        """How the value of a term over a batch follows from its values over the parts of the batch.

        mean: their mean, weighted by the number of images. sum: their sum. whole: each part already gives the value of
        the whole batch, through `Batch.joint`.
        """
        return "whole" if self.in_batch else "mean"

    def inner_objective(self, model: PixelClassifier, batch: Batch) -> Callable[[Tensor], Tensor]:
        """The objective of the training attack, (B, 3, H, W) -> (B,): cross-entropy over all classes."""
        return lambda adv: cross_entropy(model(adv), batch.labels)

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """Named, weighted scalar terms. The loop minimises their sum."""
        raise StudyError(f"{type(self).__name__} of {type(self).__module__} has no losses: define the function")
