"""Kept work: finished and partial results of stages, outside DVC, which deletes a stage's outputs before it runs.

The key of kept work is a hash of three parts: the task, a frozen dataclass that holds all inputs of the computation,
where a path counts by the content of the file; the digest of the stage's code and libraries; and the kind of device.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from zsr import files

ROOT = Path(__file__).resolve().parents[1]


def folder() -> Path:
    """The folder of kept work: ZSR_SCRATCH, or .scratch in the root of this checkout, shared by all its studies."""
    return Path(os.environ.get("ZSR_SCRATCH", ROOT / ".scratch"))


def key(task: Any, code: str) -> str:
    """The name of a task's kept work, 32 hexadecimal digits.

    Args:
        task: a frozen dataclass. The field `compute`, where there is one, gives the device of the computation.
        code: the digest of the code that computes the task, from `zsr.code_digest.code_digest`.
    """
    device = task.compute.place().type if hasattr(task, "compute") else ""
    return files.digest(code, device, described(task))


def described(value: Any) -> str:
    """A text that is equal only for equal tasks: fields by name, numbers as Python writes them, files by content."""
    if isinstance(value, Path):
        return f"file {files.identity(value)}"
    if is_dataclass(value):
        named = ", ".join(f"{field.name}={described(getattr(value, field.name))}" for field in fields(value))
        return f"{type(value).__module__}.{type(value).__qualname__}({named})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {described(value[name])}" for name in value) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(described, value)) + "]"
    assert value is None or isinstance(value, (bool, int, float, str)), f"a task cannot hold {type(value).__name__}"
    return repr(value)


@contextmanager
def claimed(kind: str, name: str) -> Iterator[Path]:
    """The path of one piece of kept work, under a lock: another process that wants the same piece waits.

    So a process left over from a killed run is waited for, and two processes never write one result.
    """
    path = folder() / kind / name
    with files.claimed(path):
        yield path
