"""Models of either head: CLIP, whose class prompts are its head, or a tower with a linear head."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from zsr.models import backbones
from zsr.models.backbones import Backbone
from zsr.models.classifier import Classifier
from zsr.models.numerics import ON_CPU, Compute
from zsr.models.pixels import IMAGENET, NormStats
from zsr.models.plain import PlainClassifier
from zsr.noise import mix
from zsr.params import Count, Natural


@dataclass(frozen=True, kw_only=True)
class Model:
    """The block `model` of params.yaml.

    arch: with the head `text` a model name of open_clip; with the head `linear` one of `zsr.models.backbones`. side and
    width are of linear heads: images are enlarged to side x side pixels inside (0: never), and width is that of the
    first stage of the arch `small`.
    """

    arch: str
    head: Literal["text", "linear"] = "text"
    side: Natural = 0
    width: Count = 16

    @property
    def backbone(self) -> Backbone:
        """The tower below a linear head."""
        return Backbone(arch=self.arch, side=self.side, width=self.width)


Whole = nn.Module  # an open_clip model, or a PlainClassifier
Origin = Literal["base", "start", "file", "random"]


def load(model: Model, weights: Path, tower: Path | None = None) -> Whole:
    """The model of a file that `save` wrote, on the CPU, in eval mode. tower: of a `save_tower`, put in its place."""
    if model.head == "linear":
        return model.backbone.load(tower or weights)
    from zsr.models import clip

    whole = clip.create(model.arch, weights)
    if tower:
        clip.load_tower(tower, whole)
    return whole


def save(path: Path, whole: Whole, model: Model, norm_stats: NormStats = "clip") -> None:
    """Write all weights; equal weights give equal bytes. norm_stats: pixel statistics that CLIP was trained with."""
    if model.head == "linear":
        return backbones.save(path, whole)
    from zsr.models import clip

    clip.save(path, whole, model.arch, norm_stats)


def first_checkpoint(folder: Path) -> Path:
    """The model of the first seed among those in a folder of checkpoints."""
    return min(folder.glob("*.safetensors"), key=lambda path: int(path.stem))


def norm_stats(whole: Whole) -> NormStats:
    """The pixel statistics that a model of CLIP normalises by; a linear head keeps its own among its weights."""
    return "imagenet" if getattr(whole.visual, "image_mean", None) == IMAGENET[0] else "clip"


def save_tower(path: Path, whole: Whole, model: Model, norm_stats: NormStats = "clip") -> None:
    """Write what fine-tuning changes: CLIP's image tower, or a tower with its linear head."""
    if model.head == "linear":
        return backbones.save(path, whole)
    from zsr.models import clip

    clip.save_tower(path, whole, norm_stats)


def classifier(whole: Whole, text_embeddings: Tensor | None, compute: Compute = ON_CPU) -> Classifier | PlainClassifier:
    """Pixels to logits over the classes of one set, on the device of `compute`."""
    if isinstance(whole, PlainClassifier):
        return whole.to(compute.place())
    return Classifier(whole, text_embeddings, compute)


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
    if origin == "random":
        return model.backbone.random(classes, mix(seed))
    if origin == "file":
        whole = model.backbone.from_file(weights, sha256)
        return backbones.with_new_head(whole, classes, mix(seed)) if trained else whole
    whole = load(model, weights)
    return backbones.with_new_head(whole, classes, mix(seed, 1)) if model.head == "linear" else whole
