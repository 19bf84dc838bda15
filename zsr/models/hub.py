"""Checkpoints of the Hugging Face hub, where FARE, TeCoA and other robust towers are published."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsr.params import StudyError

PREFIX = "hf-hub:"
FORM = re.compile(r"hf-hub:([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")
CONFIG = "open_clip_config.json"
NAMES = (  # of weights, the first that a repository has is taken
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)


class Unreachable(StudyError):
    """A repository, or a file of it, that is not in the cache and cannot be had."""


@dataclass(frozen=True)
class Repository:
    """A repository of the hub at one revision.

    Attributes:
        name: "organisation/name".
        revision: a commit, tag or branch.
    """

    name: str
    revision: str = "main"

    @classmethod
    def parsed(cls, text: str, pinned: bool = False) -> "Repository":
        """The repository of "hf-hub:organisation/name@revision". Raises ValueError for another form.

        pinned: the revision must be stated, since a branch changes.
        """
        match = FORM.fullmatch(text)
        if not match:
            raise ValueError(f"weights must be {PREFIX}organisation/name, with or without @revision, got '{text}'")
        if pinned and not match[2]:
            raise ValueError(f"weights must name a revision, since a repository may change: {text}@<commit>")
        return cls(match[1], match[2] or "main")


def fetched(text: str) -> Path:
    """The file of weights of a repository, from the hub's cache or over the network.

    Raises StudyError: no such repository or revision; no file of weights in it; no network and nothing in the cache.
    """
    repository = _parsed(text)
    for name in NAMES:
        path = _file(repository, name)
        if path:
            return path
    raise StudyError(f"{text}: none of {', '.join(NAMES)} is in the repository")


def config(text: str) -> dict[str, Any]:
    """The content of open_clip_config.json: `model_cfg` and `preprocess_cfg`; {} where the repository has none."""
    path = _file(_parsed(text), CONFIG)
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise StudyError(f"{text}: {CONFIG} is no JSON object: fetch the repository anew")
    return found


def _parsed(text: str) -> Repository:
    try:
        return Repository.parsed(text)
    except ValueError as error:
        raise StudyError(str(error)) from None


def _file(repository: Repository, name: str) -> Path | None:
    """The path of a file of the repository in the cache; None where the repository has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository.name, name, revision=repository.revision))
    except LocalEntryNotFoundError:
        raise Unreachable(_unreachable(repository, "no network, and not in the cache")) from None
    except EntryNotFoundError:
        return None
    except Exception as error:  # the client passes on exceptions of its HTTP library, which differs by version
        raise Unreachable(_unreachable(repository, type(error).__name__)) from None


def _unreachable(repository: Repository, reason: str) -> str:
    return (
        f"{PREFIX}{repository.name}@{repository.revision} could not be had ({reason}): look at its name and revision; "
        "accept its terms and set HF_TOKEN if it is gated; or fetch it once where there is a network"
    )
