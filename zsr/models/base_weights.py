"""Weights that others have trained, from open_clip's hub or from a local file: downloaded, verified, loaded.

No stage has this code in its digest: a verified file is the same, whatever code got it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from zsr import files
from zsr.data.fetching import hub
from zsr.data.fetching.download import Expected, Watch, download, unwatched
from zsr.models import checkpoints, heads
from zsr.models.pretrained import Pretrained, check
from zsr.params import StudyError


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A file of weights in a repository of the Hub, at one commit.

    Attributes:
        repo: the repository, as owner/name.
        revision: the full commit.
        name: the name of the file.
        expected: the size and hash of the file.
    """

    repo: str
    revision: str
    name: str
    expected: Expected

    @property
    def url(self) -> str:
        """The address of the file."""
        return hub.address(self.repo, self.revision, self.name, kind="")


PINS = [
    Pin(
        repo="timm/vit_base_patch32_clip_224.openai",
        revision="a6f597a30f7b82c51704746581f9a4e41421e878",
        name="open_clip_model.safetensors",
        expected=Expected(size=605_143_284, sha256="e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31"),
    )
]


def found(arch: str, weights: Pretrained) -> Path:
    """The file of the weights, downloaded where it is not here.

    A file may also be OpenAI's own archive, or have transformers' names. Raises ParamError as `check` does. Raises
    StudyError with a message of one line: the file does not exist; the file has another sha256; the cache is empty and
    there is no network. The last message also says what to do.
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
    path, config = found(arch, weights), check(arch, weights)
    model = _of_open_clip(arch, path) or _of_another_layout(arch, path)
    files.check_finite(path, model.state_dict())
    heads.set_norm_stats(model, heads.stats_of_config(config) or "clip")
    return model


def _of_open_clip(arch: str, path: Path) -> nn.Module | None:
    """The model in a file that open_clip reads; None where it does not read the file as it is."""
    import open_clip

    if checkpoints.is_archive(path):  # it holds code, and is loaded if its digest is known
        return None
    try:
        with _as_they_are():
            return open_clip.create_model(arch, pretrained=str(path)).float().eval()
    except Exception:  # a file of another layout, or without weights, may raise any exception
        return None


@contextmanager
def _as_they_are() -> Iterator[None]:
    """open_clip stretches the position embeddings of another image size or text length. That is another model."""
    from open_clip import factory

    stretching = {name: getattr(factory, name) for name in ("resize_pos_embed", "resize_text_pos_embed")}
    try:
        for name in stretching:
            setattr(factory, name, lambda *_, **__: None)
        yield
    finally:
        for name, function in stretching.items():
            setattr(factory, name, function)


def _of_another_layout(arch: str, path: Path) -> nn.Module:
    """The whole model in a file whose layout open_clip does not read."""
    import open_clip

    quick = open_clip.get_model_config(arch).get("quick_gelu")  # `check` has compared it with that of the weights
    try:
        return checkpoints.open_model(path, arch, activation="quickgelu" if quick else "gelu")
    except StudyError as error:
        reason = str(error).removeprefix(str(path)).lstrip(": ")
        raise StudyError(f"{path}: open_clip cannot load it as weights of {arch}; {reason}") from None


def pin(arch: str, tag: str) -> Pin | None:
    """The pinned file of a tag's weights; None for a tag that is not pinned. Raises ParamError as `check` does."""
    repo = check(arch, Pretrained(pretrained=tag)).get("hf_hub", "").rstrip("/")
    return next((one for one in PINS if one.repo == repo), None)


def downloaded(arch: str, tag: str, watch: Watch = unwatched) -> Path:
    """The file of the weights of a tag, from the hub's cache or over the network.

    A pinned file is checked. It is downloaded as the public sets are, and continued where it stopped. watch: called
    with its progress. Raises ParamError as `check` does; StudyError where the cache has no such file and there is no
    network, or where the file is not the pinned one.
    """
    from open_clip.pretrained import download_pretrained

    config, pinned = check(arch, Pretrained(pretrained=tag)), pin(arch, tag)
    if pinned:
        return _pinned(pinned, watch)
    try:
        return Path(download_pretrained(config))
    except Exception as error:  # the hub's client, the network or the disk may fail
        origin = config.get("hf_hub", "").rstrip("/") or config.get("url", "")
        raise StudyError(
            f"weights '{tag}' of {arch} are not in the hub's cache and cannot be fetched ({type(error).__name__}); "
            f"with a network run dvc repro base_model once, or bring the weights file of {origin} here and set "
            "base_model.file to its path"
        ) from None


def _pinned(pinned: Pin, watch: Watch) -> Path:
    from huggingface_hub import constants, try_to_load_from_cache

    cached = try_to_load_from_cache(pinned.repo, pinned.name, revision=pinned.revision)
    own = Path(constants.HF_HUB_CACHE, "zsr", pinned.revision, pinned.name)
    path = Path(cached) if isinstance(cached, str) else own
    if path.exists():
        pinned.expected.require(path)
        return path
    try:
        if hub.offline():
            raise StudyError(f"{path} is not there, and HF_HUB_OFFLINE is set")
        download([pinned.url], path, pinned.expected, watch=watch, token=hub.token())
    except StudyError as error:
        reason = str(error).partition(": fetch again")[0]
        raise StudyError(
            f"{reason}; with a network run dvc repro base_model once, or bring the file here and set base_model.file "
            "to its path"
        ) from None
    return path
