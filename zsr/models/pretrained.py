"""Weights that others have trained. They come from open_clip's hub, or from a local file, which DVC may track."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from zsr import files
from zsr.params import ParamError, StudyError, nearest


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Which weights of others the base model has.

    Attributes:
        pretrained: a tag of open_clip, such as "openai". It names the training that the weights come from.
        file: the path of the weights; "": the weights come from the hub, or from the hub's cache.
        sha256: digest of the file, in hexadecimal digits; "": the digest is not compared.
    """

    pretrained: str
    file: str = ""
    sha256: str = ""


def check(arch: str, weights: Pretrained) -> dict[str, Any]:
    """Return open_clip's configuration of these weights.

    Raises ParamError: open_clip has no such tag for the arch; the weights were trained with QuickGELU and the arch
    computes GELU, or the other way round. The weights themselves would not show this error.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(arch)
    if weights.pretrained not in tags:
        hint = nearest(weights.pretrained, tags)
        listed = ", ".join(tags) or "none"
        raise ParamError(f"base_model.pretrained must be a tag of {arch} ({listed}), got '{weights.pretrained}'{hint}")
    config = open_clip.get_pretrained_cfg(arch, weights.pretrained)
    quick = bool(config.get("quick_gelu"))
    if quick != bool(open_clip.get_model_config(arch).get("quick_gelu")):
        matching_arch = f"{arch}-quickgelu" if quick else arch.removesuffix("-quickgelu")
        raise ParamError(f"model.arch must be '{matching_arch}' for the weights '{weights.pretrained}', got '{arch}'")
    return config


def found(arch: str, weights: Pretrained) -> Path:
    """The file of the weights, downloaded where it is not here.

    Raises ParamError as `check` does. Raises StudyError with a message of one line: the file does not exist; the file
    has another sha256; the cache is empty and there is no network. The last message also says what to do.
    """
    check(arch, weights)
    path = Path(weights.file) if weights.file else downloaded(arch, weights.pretrained)
    if not path.exists():
        raise StudyError(f"base_model.file: {path} is not there; put it there, or run dvc pull if DVC tracks it")
    if weights.sha256:
        digest = files.sha256(path)
        if digest != weights.sha256:
            raise StudyError(f"base_model.sha256: {path} has {digest}, not {weights.sha256}")
    return path


def load(arch: str, weights: Pretrained) -> nn.Module:
    """Return an open_clip model with these weights, fp32, on the CPU, in eval mode.

    Raises what `found` raises, and StudyError where the file holds no weights of the arch.
    """
    import open_clip

    path = found(arch, weights)
    try:
        return open_clip.create_model(arch, pretrained=str(path)).float().eval()
    except Exception as error:  # a file without weights may raise any exception
        raise StudyError(
            f"{path}: open_clip cannot load it as weights of {arch} ({type(error).__name__}); it is damaged, or "
            "its weights are of another arch"
        ) from None


def downloaded(arch: str, tag: str) -> Path:
    """The file of the weights of a tag, from the hub's cache or over the network.

    Raises ParamError as `check` does; StudyError where the cache has no such file and there is no network.
    """
    from open_clip.pretrained import download_pretrained

    config = check(arch, Pretrained(pretrained=tag))
    try:
        return Path(download_pretrained(config))
    except Exception as error:  # the hub's client, the network or the disk may fail
        origin = config.get("hf_hub", "").rstrip("/") or config.get("url", "")
        raise StudyError(
            f"weights '{tag}' of {arch} are not in the hub's cache and cannot be fetched ({type(error).__name__}); "
            f"with a network run dvc repro base_model once, or bring the weights file of {origin} here and set "
            "base_model.file to its path"
        ) from None
