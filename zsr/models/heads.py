"""Models of either head: CLIP, whose class prompts are its head, or a tower with a linear head."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from torch import Tensor, nn

from zsr.models.classifier import IMAGENET, NormStats, PixelClassifier
from zsr.models.passes import ON_CPU, Compute
from zsr.params import Count, Natural

MODULES = {"text": "zsr.models.clip", "linear": "zsr.models.linear"}  # of models, by their heads
Whole = nn.Module  # an open_clip model, or a `zsr.models.linear.PlainClassifier`
Origin = Literal["base", "start", "file", "random"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """The block `model` of params.yaml.

    Attributes:
        arch: with the head `text` a model name of open_clip; with the head `linear` an arch of
            `zsr.models.linear.Backbone`.
        head: class prompts, or a linear layer that is trained with the tower.
        side: of linear heads: images are enlarged to side x side pixels inside; 0: never.
        width: of linear heads: of the first stage of the arch `small`.
    """

    arch: str
    head: Literal["text", "linear"] = "text"
    side: Natural = 0
    width: Count = 16

    @property
    def module(self) -> ModuleType:
        """Where models of the head are made, loaded and saved; a study loads that of its own head alone."""
        return import_module(MODULES[self.head])

    @property
    def backbone(self) -> Any:
        """The tower below a linear head, a `zsr.models.linear.Backbone`."""
        return self.module.Backbone(arch=self.arch, side=self.side, width=self.width)


def load(model: Model, weights: Path, tower: Path | None = None) -> Whole:
    """The model of a file that `save` wrote, on the CPU, in eval mode. tower: of a `save_tower`, put in its place."""
    return model.module.load(model, weights, tower)


def save(path: Path, whole: Whole, model: Model, norm_stats: NormStats = "clip") -> None:
    """Write all weights; equal weights give equal bytes. norm_stats: pixel statistics that CLIP was trained with."""
    model.module.save(path, whole, model.arch, norm_stats)


def save_tower(path: Path, whole: Whole, model: Model, norm_stats: NormStats = "clip") -> None:
    """Write what fine-tuning changes: CLIP's image tower, or a tower with its linear head."""
    model.module.save_tower(path, whole, norm_stats)


def first_checkpoint(folder: Path) -> Path:
    """The model of the first seed among those in a folder of checkpoints."""
    return min(folder.glob("*.safetensors"), key=lambda path: int(path.stem))


def norm_stats(whole: Whole) -> NormStats:
    """The pixel statistics that a model of CLIP normalises by; a linear head keeps its own among its weights."""
    return "imagenet" if getattr(whole.visual, "image_mean", None) == IMAGENET[0] else "clip"


def classifier(
    model: Model, whole: Whole, text_embeddings: Tensor | None, compute: Compute = ON_CPU
) -> PixelClassifier:
    """Pixels to logits over the classes of one set, on the device of `compute`.

    A `zsr.models.classifier.Classifier`, or a `zsr.models.linear.PlainClassifier`.
    """
    return model.module.classifier(whole, text_embeddings, compute)


def first_weights(
    model: Model, weights: Path, origin: Origin, classes: int, seed: int, sha256: str = "", trained: bool = True
) -> Whole:
    """What a training begins with.

    Args:
        model: the architecture and the head.
        weights: a file; with the origin "random" it is not read.
        origin: "base", the base model of CLIP. "start", weights that another training has left; a linear head gets a
            new random one. "file", weights of others below a linear head. "random", a random tower and linear head.
        classes: of the set that is trained on, for a new head.
        seed: of random weights.
        sha256: what a file of others must have; "": it is not compared.
        trained: False where no step follows, so that a file of others keeps its head.
    """
    return model.module.first_weights(model, weights, origin, classes, seed, sha256, trained)
