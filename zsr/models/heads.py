"""Models of both heads: CLIP, whose class prompts are the head, and an image tower with a linear head."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from zsr import files
from zsr.compute import ON_CPU, Compute
from zsr.params import Rounds, Side

MODULES = {"text": "zsr.models.clip", "linear": "zsr.models.linear"}  # head -> module of the models with that head
Whole = nn.Module  # an open_clip model, or a `zsr.models.linear.PlainClassifier`
Origin = Literal["base", "start", "file", "random"]
NormStats = Literal["clip", "imagenet", "inception"]  # clip: the statistics in the tower's own attributes
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of pixels in [0, 1]
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
STATISTICS: dict[NormStats, tuple] = {"imagenet": IMAGENET, "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}


class PixelClassifier(Protocol):
    """The interface of a model for methods, attacks and measures. Images are (B, 3, H, W), pixels in [0, 1].

    A model with a linear head has `visual`, `facts`, parameters, logits and image features. Only CLIP has the other
    members; a method that uses them sets `needs_text`.

    Attributes:
        visual: the image tower, which training changes.
        text_embeddings: text embeddings of the class prompts, (C, D), unit norm.
        logit_scale: the factor of cosines in the logits, a positive number.
    """

    visual: nn.Module
    text_embeddings: Tensor
    logit_scale: Tensor

    @property
    def facts(self) -> str:
        """The model's part of a protocol."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch tokens."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the tower's input, in pixels."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """As of `nn.Module`."""

    def train(self, mode: bool = True) -> "PixelClassifier":
        """As of `nn.Module`."""

    def eval(self) -> "PixelClassifier":
        """As of `nn.Module`."""

    def requires_grad_(self, requires_grad: bool = True) -> "PixelClassifier":
        """As of `nn.Module`."""

    def __call__(self, images: Tensor) -> Tensor:
        """Logits, (B, C)."""

    def image_features(self, images: Tensor) -> Tensor:
        """Raw, unnormalised image features, (B, D)."""

    def classify(self, image_features: Tensor) -> Tensor:
        """Logits of raw features, (B, D) -> (B, C)."""

    def tokens(self, images: Tensor) -> Tensor:
        """CLS and patch tokens, (B, 1+P, D)."""

    def pool(self, tokens: Tensor) -> Tensor:
        """Pool tokens to raw image features, (B, 1+P, D) -> (B, D)."""


def set_norm_stats(model: nn.Module, norm_stats: NormStats) -> None:
    """Set the pixel statistics that every later `Classifier` of this open_clip model normalises by."""
    if norm_stats in STATISTICS:
        visual: Any = model.visual
        visual.image_mean, visual.image_std = STATISTICS[norm_stats]


def tower_of(model: nn.Module) -> nn.Module:
    """The image tower of an open_clip model, or of a `zsr.models.linear.PlainClassifier`."""
    return model.get_submodule("visual")


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
    side: Side = 0
    width: Rounds = 16

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


def save(path: Path, whole: Whole, model: Model, norm_stats: NormStats = "clip", placed: bool = False) -> None:
    """Write all weights. Equal weights give equal bytes.

    norm_stats: pixel statistics that CLIP was trained with. placed: the file states its path, and `load` refuses the
    file elsewhere.
    """
    model.module.save(path, whole, model.arch, norm_stats, placed=placed)


def save_tower(
    path: Path, whole: Whole, model: Model, norm_stats: NormStats = "clip", facts: dict[str, str] | None = None
) -> None:
    """Write the part that fine-tuning changes: CLIP's image tower, or a tower with its linear head. facts: more facts.

    `zsr.files.load_facts` returns the facts.
    """
    model.module.save_tower(path, whole, norm_stats, facts)


def checkpoints(folder: Path) -> list[Path]:
    """The models in a folder, SEED.safetensors, by seed. Raises Unusable where there is none."""
    found = files.listed(folder, ".safetensors")
    if not found:
        raise files.Unusable(folder, "holds no model, a file SEED.safetensors")
    return found


def first_checkpoint(folder: Path) -> Path:
    """The model of the first seed in a folder. Raises Unusable as `checkpoints` does."""
    return checkpoints(folder)[0]


def norm_stats(whole: Whole) -> NormStats:
    """The pixel statistics of a CLIP model. A model with a linear head has its pixel statistics among its weights."""
    mean = getattr(whole.visual, "image_mean", None)
    return next((name for name, statistics in STATISTICS.items() if mean == statistics[0]), "clip")


def stats_of_config(config: Mapping[str, Any]) -> NormStats | Literal[""]:
    """The name of the mean and std in a config of open_clip. "": the config has none, or others than are known."""
    both = [config.get(key) for key in ("mean", "std")]
    stated = tuple(tuple(numbers) if isinstance(numbers, list | tuple) else numbers for numbers in both)
    known: dict[NormStats, tuple] = {"clip": CLIP, **STATISTICS}
    return next((name for name, statistics in known.items() if stated == statistics), "")


def classifier(
    model: Model, whole: Whole, text_embeddings: Tensor | None, compute: Compute = ON_CPU
) -> PixelClassifier:
    """A classifier from pixels to logits over the classes of one set, on the device of `compute`.

    It is a `zsr.models.clip.Classifier` or a `zsr.models.linear.PlainClassifier`.
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
