"""Weights that others have trained, as params.yaml names them. `zsr.models.base_weights` gets and loads them."""

from dataclasses import dataclass
from typing import Any

from zsr.params import ParamError, nearest


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
