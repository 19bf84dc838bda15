"""Weights that others have trained: from open_clip's hub, or from a file that lies here or that DVC has brought."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from zsr import files
from zsr.errors import ParamError, StudyError
from zsr.params import nearest


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Which weights of others the base model has.

    Attributes:
        pretrained: a tag of open_clip, as "openai": what was trained how.
        file: the path of its weights; "": they come from the hub, or from the hub's cache.
        sha256: of the file, in hexadecimal digits; "": it is not compared.
    """

    pretrained: str
    file: str = ""
    sha256: str = ""


def check(arch: str, wanted: Pretrained) -> dict[str, Any]:
    """What open_clip knows of these weights.

    Raises ParamError: it knows no such tag for the arch; the weights were trained with QuickGELU and the arch computes
    GELU, or the other way round, which no loaded weight would show.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(arch)
    if wanted.pretrained not in tags:
        close = nearest(wanted.pretrained, tags)
        listed = ", ".join(tags) or "none"
        raise ParamError(f"base_model.pretrained must be a tag of {arch} ({listed}), got '{wanted.pretrained}'{close}")
    known = open_clip.get_pretrained_cfg(arch, wanted.pretrained)
    quick = bool(known.get("quick_gelu"))
    if quick != bool(open_clip.get_model_config(arch).get("quick_gelu")):
        right = f"{arch}-quickgelu" if quick else arch.removesuffix("-quickgelu")
        raise ParamError(f"model.arch must be '{right}' for the weights '{wanted.pretrained}', got '{arch}'")
    return known


def load(arch: str, wanted: Pretrained) -> nn.Module:
    """An open_clip model with these weights, fp32, on the CPU, in eval mode.

    Raises ParamError as `check`. Raises StudyError, one line: no such file; another sha256; no weights of the arch in
    it; no network and nothing in the cache, with what to do.
    """
    import open_clip

    known = check(arch, wanted)
    path = Path(wanted.file) if wanted.file else _downloaded(arch, wanted.pretrained, known)
    if not path.exists():
        raise StudyError(f"base_model.file: {path} is not there; put it there, or run dvc pull if DVC tracks it")
    if wanted.sha256:
        found = files.sha256(path)
        if found != wanted.sha256:
            raise StudyError(f"base_model.sha256: {path} has {found}, not {wanted.sha256}")
    try:
        return open_clip.create_model(arch, pretrained=str(path)).float().eval()
    except Exception as error:  # a file that is none of weights raises whatever its bytes lead to
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StudyError(f"{path}: open_clip cannot load it as weights of {arch}: {said}") from None


def _downloaded(arch: str, tag: str, known: dict[str, Any]) -> Path:
    from open_clip.pretrained import download_pretrained

    try:
        return Path(download_pretrained(known))
    except Exception as error:  # of the hub's client, of the network, of the disk
        origin = known.get("hf_hub", "").rstrip("/") or known.get("url", "")
        raise StudyError(
            f"weights '{tag}' of {arch} are not in the hub's cache and cannot be fetched ({type(error).__name__}); "
            f"with a network run dvc repro base_model once, or bring the weights file of {origin} here and set "
            "base_model.file to its path"
        ) from None
