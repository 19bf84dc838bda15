"""The pickles of CIFAR, read without running anything that they name.

A pickle names functions, and Python's own reader calls them. The reader below knows the names by which NumPy stores
arrays and numbers, and puts its own functions in their place. Any other name is refused.
"""

import io
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zsr.data.outside import printable, words
from zsr.data.samples import Samples, of_array
from zsr.params import StudyError, require_plain

MOST_BYTES = 2**28  # the largest file of CIFAR has 155 MB
MOST_STEPS = 2_000_000  # of a pickle; those of CIFAR have a few hundred thousand
MOST_IN_TUPLE, MOST_NESTED = 16, 3  # tuples hold the shape and the kind of an array
WITHOUT = (pickle.LONG4, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.NEXT_BUFFER)
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
    ("numpy", "dtype"): _Kind,
    ("numpy", "ndarray"): _Array,
}
for package in ("numpy.core", "numpy._core"):
    KNOWN[f"{package}.multiarray", "_reconstruct"] = lambda *_: _Array()
    KNOWN[f"{package}.multiarray", "scalar"] = lambda kind, content: kind.array(content, ()).item()
    KNOWN[f"{package}.numeric", "_frombuffer"] = _of_buffer


class _Steps(dict):
    """The steps that a pickle may take, by their codes. They are counted: a few bytes may ask for hours of work."""

    def __init__(self) -> None:
        super().__init__(pickle._Unpickler.dispatch)
        self.left = MOST_STEPS

    def __getitem__(self, code: int) -> Callable:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError(f"it takes more than {MOST_STEPS} steps")
        if bytes([code]) in WITHOUT or code not in self:
            raise pickle.UnpicklingError(f"it takes the step {code:#x}, which no file of CIFAR needs")
        return super().__getitem__(code)


def _depth(value: Any, most: int) -> int:
    """How deep tuples are nested, up to `most`. Python goes through all of them to use a tuple as a key."""
    return 1 + max((_depth(part, most - 1) for part in value), default=0) if isinstance(value, tuple) and most else 0


class _Reader(pickle._Unpickler):  # in Python, since the one in C takes any amount of memory that a pickle asks for
    """Reads arrays, numbers, texts, lists and dicts."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        steps = _Steps()
        for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
            steps[code[0]] = partial(_load_tuple, load=pickle._Unpickler.dispatch[code[0]])
        self.encoded = 0
        self.dispatch = steps  # type: ignore[misc]  # `load` looks the steps up here

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a function that a pickle names."""
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, and may hold arrays, numbers and texts alone")
        return KNOWN[module, name]

    def _encode(self, text: str, encoding: str) -> bytes:
        self.encoded += len(text)
        if self.encoded > MOST_BYTES:
            raise pickle.UnpicklingError(f"it makes more than {MOST_BYTES} bytes")
        return text.encode("latin1")


def _load_tuple(reader: Any, load: Callable) -> None:
    load(reader)
    made = reader.stack[-1]
    if len(made) > MOST_IN_TUPLE or _depth(made, MOST_NESTED + 1) > MOST_NESTED:
        raise pickle.UnpicklingError("it holds a tuple that is no shape and no kind of an array")


def load(path: Path) -> dict[Any, Any]:
    """The dict in a pickle of arrays, numbers, texts, lists and dicts. Raises StudyError for any other file."""
    require_plain(path)
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise pickle.UnpicklingError(f"it has more than {MOST_BYTES} bytes")
        stored = _Reader(content).load()
        if not isinstance(stored, dict):
            raise pickle.UnpicklingError("it holds no dict")
        return {key: value.content if isinstance(value, _Array) else value for key, value in stored.items()}
    except Exception as error:  # a damaged pickle raises exceptions of many types
        reason = getattr(error, "strerror", None) or words(error)
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
    flat = batch.get("data")
    if not isinstance(flat, np.ndarray) or flat.dtype != np.uint8 or flat.ndim != 2 or flat.shape[1] != 3 * 32 * 32:
        raise StudyError(f"{printable(images)} must have rows of 3072 bytes under data: fetch the set anew")
    pixels, numbers = flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), _listed(batch, images, labels, int)
    return of_array(pixels, numbers, _listed(load(meta), meta, classes, str), split)


def _listed(stored: dict, path: Path, key: str, kind: type) -> list:
    """The list under a key of a pickle, all of one kind."""
    found = stored.get(key)
    if not isinstance(found, list) or any(type(value) is not kind for value in found):
        what = "whole numbers" if kind is int else "texts"
        raise StudyError(f"{printable(path)} must have a list of {key}, all {what}: fetch the set anew")
    return found
