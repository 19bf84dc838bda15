"""The pickles of CIFAR, read without running anything that they name.

A pickle names functions, and Python's own reader calls them. The reader below knows the names by which NumPy stores
arrays and numbers, and puts its own functions in their place. Any other name is refused.
"""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zsr.data.outside import printable
from zsr.data.samples import Samples, of_array
from zsr.params import StudyError, require_plain

MOST_BYTES = 2**28  # the largest file of CIFAR has 155 MB
NUMBERS = {"b1": np.bool_, "u1": np.uint8, "i4": np.int32, "i8": np.int64, "f4": np.float32, "f8": np.float64}


class _Kind:
    """The kind of the numbers of an array, in place of numpy.dtype."""

    def __init__(self, code: str, *_: Any) -> None:
        self.numbers = np.dtype(NUMBERS[code])

    def __setstate__(self, state: tuple) -> None:
        self.numbers = self.numbers.newbyteorder(">" if state[1] == ">" else "<")

    def array(self, content: bytes | str, shape: Any, order: str = "C") -> np.ndarray:
        stored = content.encode("latin1") if isinstance(content, str) else content
        return np.frombuffer(stored, self.numbers).reshape(shape, order="F" if order == "F" else "C")


class _Array:
    """An array to be, in place of numpy.ndarray."""

    content: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, by_columns, content = state
        self.content = kind.array(content, shape, "F" if by_columns else "C")


def _of_buffer(content: bytes, kind: _Kind, shape: tuple, order: str) -> _Array:
    array = _Array()
    array.content = kind.array(content, shape, order)
    return array


KNOWN: dict[tuple[str, str], Callable] = {
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
    ("numpy", "dtype"): _Kind,
    ("numpy", "ndarray"): _Array,
}
for package in ("numpy.core", "numpy._core"):
    KNOWN[f"{package}.multiarray", "_reconstruct"] = lambda *_: _Array()
    KNOWN[f"{package}.multiarray", "scalar"] = lambda kind, content: kind.array(content, ()).item()
    KNOWN[f"{package}.numeric", "_frombuffer"] = _of_buffer


class _Reader(pickle._Unpickler):  # in Python, since the one in C takes any amount of memory that a pickle asks for
    """Reads arrays, numbers, texts, lists and dicts."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a function that a pickle names."""
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, and may hold arrays, numbers and texts alone")
        return KNOWN[module, name]


def load(path: Path) -> dict[Any, Any]:
    """The dict in a pickle of arrays, numbers, texts, lists and dicts. Raises StudyError for any other file."""
    require_plain(path)
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise pickle.UnpicklingError(f"it has more than {MOST_BYTES} bytes")
        stored = _Reader(io.BytesIO(content), encoding="latin1").load()
        return {key: value.content if isinstance(value, _Array) else value for key, value in stored.items()}
    except Exception as error:  # a damaged pickle raises exceptions of many types
        reason = getattr(error, "strerror", None) or printable(str(error) or type(error).__name__)
        raise StudyError(f"{printable(path)} cannot be read ({reason}): fetch the set anew") from None


def read(images: Path, labels: str, meta: Path, classes: str, split: str) -> Samples:
    """The samples of CIFAR's files.

    Args:
        images: the file with images and labels.
        labels: the key of the labels in this file.
        meta: the file with the names of the classes.
        classes: the key of the names in this file.
        split: the split, for the ids.
    """
    batch = load(images)
    if not isinstance(batch.get(labels), list):
        raise StudyError(f"{printable(images)} must have a list of {labels}: fetch the set anew")
    pixels = np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return of_array(pixels, [int(label) for label in batch[labels]], [str(name) for name in load(meta)[classes]], split)
