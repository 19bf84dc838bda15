"""Build, load and save open_clip models by name. The tiny CLIP is one more config file of open_clip."""

from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from zsr import files
from zsr.models.classifier import Classifier, NormStats, set_norm_stats, tower_of
from zsr.models.heads import Model, Origin
from zsr.models.passes import ON_CPU, Compute

PACKAGE_DATA = ["configs"]

open_clip.add_model_config(Path(__file__).parent / "configs")


def create(arch: str, checkpoint: Path | None = None) -> nn.Module:
    """The CLIP model of an open_clip name, in eval mode, fp32. Without a checkpoint its weights are random.

    A checkpoint also says the pixel statistics that the model was trained with. open_clip raises RuntimeError where it
    has no such name; `zsr.study.check` looks for the name first.
    """
    model = open_clip.create_model(arch, pretrained=str(checkpoint) if checkpoint else None).eval()
    if checkpoint:
        set_norm_stats(model, files.load_facts(checkpoint).get("norm_stats", "clip"))
    return model


def save(path: Path, model: nn.Module, arch: str, norm_stats: NormStats = "clip") -> None:
    """Write a file that `open_clip.create_model(arch, pretrained=path)` loads. Equal weights give equal bytes."""
    files.save_tensors(path, model.state_dict(), {"arch": arch, "norm_stats": norm_stats})


def save_tower(path: Path, model: nn.Module, norm_stats: NormStats) -> None:
    """Write the image tower alone, the only part that fine-tuning changes."""
    files.save_tensors(path, tower_of(model).state_dict(), {"norm_stats": norm_stats})


def load_tower(path: Path, model: nn.Module) -> None:
    """Load a file of `save_tower` into a model of the same architecture: the tower and its pixel statistics."""
    tensors, facts = files.load_tensors(path)
    tower_of(model).load_state_dict(tensors)
    set_norm_stats(model, facts["norm_stats"])


@torch.no_grad()
def embed_texts(model: nn.Module, arch: str, prompts: list[str]) -> Tensor:
    """Text embeddings of C prompts, (C, D) fp32, unit norm."""
    tokens = open_clip.get_tokenizer(arch)(prompts)
    clip: Any = model
    return clip.encode_text(tokens, normalize=True).float()


# The functions that `zsr.models.heads` calls in each module of models


def load(model: Model, weights: Path, tower: Path | None = None) -> nn.Module:
    """As `zsr.models.heads.load`."""
    whole = create(model.arch, weights)
    if tower:
        load_tower(tower, whole)
    return whole


def classifier(whole: nn.Module, text_embeddings: Tensor, compute: Compute = ON_CPU) -> Classifier:
    """As `zsr.models.heads.classifier`."""
    return Classifier(whole, text_embeddings, compute)


def first_weights(
    model: Model, weights: Path, origin: Origin, classes: int, seed: int, sha256: str, trained: bool
) -> nn.Module:
    """As `zsr.models.heads.first_weights`. CLIP has no random head, so the seed changes nothing."""
    return create(model.arch, weights)
