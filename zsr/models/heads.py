"""Models of both heads: CLIP, whose class prompts are the head, and an image tower with a linear head."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from torch import Tensor, nn

from zsr.models.classifier import IMAGENET, NormStats, PixelClassifier
from zsr.models.passes import ON_CPU, Compute
from zsr.params import Count, Natural

MODULES = {"text": "zsr.models.clip", "linear": "zsr.models.linear"}  # head -> module of the models with that head
Whole = nn.Module  # an open_clip model, or a `zsr.models.linear.PlainClassifier`
Origin = Literal["base", "start", "file", "random"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """The block `model` of params.yaml.

    Attributes:
        arch: with the head `text` a model name of open_clip; with the head `linear` an arch of
            `zsr.models.linear.Backbone`.
        head: `text` for class prompts, `linear` for a linear layer that is trained with the tower.
        side: for linear heads: the model enlarges images to side x side pixels; 0: it never does.
        width: for linear heads: channels of the first stage of the arch `small`.
    """

    arch: str
    head: Literal["text", "linear"] = "text"
    side: Natural = 0
    width: Count = 16

    @property
    def module(self) -> ModuleType:
        """The module that makes, loads and saves models of this head. A study imports the module of its head alone."""
        return import_module(MODULES[self.head])

    @property
    def backbone(self) -> Any:
        """The tower below a linear head, a `zsr.models.linear.Backbone`."""
        return self.module.Backbone(arch=self.arch, side=self.side, width=self.width)


def load(model: Model, weights: Path, tower: Path | None = None) -> Whole:
    """Load a file of `save`, on the CPU, in eval mode. tower: a file of `save_tower` that replaces the tower."""
    return model.module.load(model, weights, tower)


def save(path: Path, whole: Whole, model: Model, norm_stats: NormStats = "clip") -> None:
    """Write all weights. Equal weights give equal bytes. norm_stats: pixel statistics that CLIP was trained with."""
    model.module.save(path, whole, model.arch, norm_stats)


def save_tower(path: Path, whole: Whole, model: Model, norm_stats: NormStats = "clip") -> None:
    """Write the part that fine-tuning changes: CLIP's image tower, or a tower with its linear head."""
    model.module.save_tower(path, whole, norm_stats)


def first_checkpoint(folder: Path) -> Path:
    """The checkpoint of the first seed in a folder of checkpoints."""
    return min(folder.glob("*.safetensors"), key=lambda path: int(path.stem))


def norm_stats(whole: Whole) -> NormStats:
    """The pixel statistics of a CLIP model. A model with a linear head has its pixel statistics among its weights."""
    return "imagenet" if getattr(whole.visual, "image_mean", None) == IMAGENET[0] else "clip"


def classifier(
    model: Model, whole: Whole, text_embeddings: Tensor | None, compute: Compute = ON_CPU
) -> PixelClassifier:
    """A classifier from pixels to logits over the classes of one set, on the device of `compute`.

    It is a `zsr.models.classifier.Classifier` or a `zsr.models.linear.PlainClassifier`.
    """
    return model.module.classifier(whole, text_embeddings, compute)


def first_weights(
    model: Model, weights: Path, origin: Origin, classes: int, seed: int, sha256: str = "", trained: bool = True
) -> Whole:
    """The model that a training begins with.

    Args:
        model: the architecture and the head.
        weights: a file of weights; with the origin "random" it is not read.
        origin: "base": the base model of CLIP. "start": the model of another training; a linear head is replaced by a
            random head. "file": weights of others below a linear head. "random": a random tower and linear head.
        classes: number of classes of the training set, for a new head.
        seed: seed of random weights.
        sha256: the digest that a file of others must have; "": the digest is not compared.
        trained: False where no training step follows, so that a file of others keeps its head.
    """
    return model.module.first_weights(model, weights, origin, classes, seed, sha256, trained)
