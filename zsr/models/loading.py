"""CLIP models of any origin by one name, and zero-shot classifiers of them: what `zsr.load` and `zsr.zero_shot` are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn import functional as F

from zsr.compute import Compute
from zsr.data.outside import printable
from zsr.models import base_weights, checkpoints, clip, heads, hub
from zsr.models.checkpoints import Checkpoint
from zsr.models.clip import Classifier
from zsr.models.pretrained import Pretrained
from zsr.params import ParamError, StudyError, nearest

TEMPLATE = "This is a photo of a {}"
Activation = Literal["", "gelu", "quickgelu"]
Stats = Literal["", heads.NormStats]


def load(
    weights: str | Path, arch: str = "", base: str | Path = "", activation: Activation = "", norm_stats: Stats = ""
) -> nn.Module:
    """A CLIP model in eval mode, fp32, on the CPU. `zero_shot` makes a classifier of it.

    Args:
        weights: a file in any layout of `zsr.models.checkpoints`; a tag of open_clip, such as "openai"; or
            "hf-hub:organisation/name", with or without "@revision".
        arch: the model's name in open_clip. A repository of the hub that states its own needs none.
        base: the whole model that gives the text tower where `weights` is an image tower alone: a file or a tag; by
            default the tag "openai".
        activation: "gelu" or "quickgelu", where the file does not say what its weights were trained with.
        norm_stats: mean and std of pixels that the tower was trained with, where the file does not say: "clip",
            "imagenet" or "inception". A repository of the hub that states its own needs none.

    Returns:
        An open_clip model. Its attribute `arch` is its name in open_clip.

    Raises:
        StudyError: a message of one line; the weights are not there, are damaged, do not fit or lack a statement.
    """
    text = str(weights)
    if text.startswith(hub.PREFIX):
        arch = arch or _arch_of(text)
        path = hub.fetched(text)
    elif not Path(text).exists() and _is_tag(text):
        return _named(_tagged(text, _required(arch, text)), arch)
    else:
        path = Path(text)
    if not path.is_file():
        raise StudyError(_unknown(text, arch))
    checkpoint = checkpoints.read(path)
    if text.startswith(hub.PREFIX):
        norm_stats = norm_stats or checkpoint.norm_stats or _stats_of(text)
    arch = _required(arch or checkpoint.arch or "", text)
    whole = _base(checkpoint, arch, str(base))
    return _named(checkpoints.open_model(path, arch, whole, activation, norm_stats, checkpoint), arch)


def zero_shot(
    model: nn.Module,
    classnames: Sequence[str],
    templates: str | Sequence[str] = TEMPLATE,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Classifier:
    """A classifier from pixels in [0, 1] to logits over classes, as of CLIP (Radford et al., 2021).

    Args:
        model: a model of `load`.
        classnames: the names of C classes, no two equal.
        templates: one prompt, or several whose embeddings are averaged, each with {} for the class name.
        device: where the classifier runs.

    Raises:
        ParamError: fewer than two classes; a name twice; a template without {}; a prompt that is too long.
    """
    names = list(classnames)
    doubles = sorted({name for name in names if names.count(name) > 1})
    if len(names) < 2 or doubles:
        raise ParamError(
            f"classnames must be at least two, none twice, got {', '.join(doubles) + ' twice' if doubles else names}"
        )
    arch = getattr(model, "arch", "")
    if not arch:
        raise ParamError("model must come from zsr.load, or have its open_clip name as the attribute `arch`")
    embeddings = text_embeddings(model, arch, names, [templates] if isinstance(templates, str) else templates)
    return classifier(model, embeddings, device)


def classifier(model: nn.Module, embeddings: torch.Tensor, device: Literal["auto", "cpu", "cuda"]) -> Classifier:
    """A classifier of the given text embeddings, (C, D), in eval mode, frozen."""
    return Classifier(model, embeddings, Compute(device=device)).eval().requires_grad_(False)


def text_embeddings(model: nn.Module, arch: str, classnames: Sequence[str], templates: Sequence[str]) -> torch.Tensor:
    """Unit-norm embeddings of C classes, (C, D): for several templates the normalised mean of their embeddings."""
    for template in templates:
        if template.count("{}") != 1:
            raise ParamError(f"template must hold {{}} once, for the class name, got '{template}'")
    parts = [clip.embed_texts(model, arch, [t.replace("{}", name) for name in classnames]) for t in templates]
    if not parts:
        raise ParamError("templates must be at least one")
    return parts[0] if len(parts) == 1 else F.normalize(torch.stack(parts).mean(dim=0), dim=1)


def _named(model: nn.Module, arch: str) -> nn.Module:
    model.arch = arch  # type: ignore[assignment]
    return model


def _is_tag(text: str) -> bool:
    return any(text == tag for _, tag in clip.library().list_pretrained())


def _tagged(tag: str, arch: str) -> nn.Module:
    return base_weights.load(arch, Pretrained(pretrained=tag))


def _required(arch: str, weights: str) -> str:
    if not arch:
        raise ParamError(f"arch must be stated for {weights}: its name in open_clip, such as ViT-B-32-quickgelu")
    return arch


def _arch_of(repository: str) -> str:
    """The open_clip name whose config a repository of the hub states; "" where there is none."""
    config, library = hub.config(repository).get("model_cfg", {}), clip.library()
    equal = [name for name in library.list_models() if config and library.get_model_config(name) == config]
    return equal[0] if equal else ""


def _stats_of(repository: str) -> Stats:
    """The pixel statistics that the config of a repository states; "" where it states none, or cannot be had."""
    try:
        stated = hub.config(repository).get("preprocess_cfg")
    except hub.Unreachable:  # the weights may be here all the same
        return ""
    if not isinstance(stated, dict) or not stated.get("mean"):
        return ""
    found = heads.stats_of_config(stated)
    if not found:
        known = ", ".join(get_args(heads.NormStats))
        raise StudyError(f"{repository} states a mean and std of pixels that are none of {known}: state norm_stats")
    return found


def _base(checkpoint: Checkpoint, arch: str, base: str) -> Path | None:
    """The file of the whole model below an image tower; None where the checkpoint itself is whole."""
    if checkpoint.rest:
        return None
    if base and Path(base).is_file():
        return Path(base)
    return base_weights.downloaded(arch, base or "openai")


def _unknown(text: str, arch: str) -> str:
    tags = [tag for name, tag in clip.library().list_pretrained() if not arch or name == arch]
    return (
        f"weights must be a file, a tag of open_clip, {hub.PREFIX}organisation/name or a row of the study here, "
        f"got '{printable(text)}'{nearest(text, tags)}"
    )
