"""pcam: PatchCamelyon, 32,768 test images of 96x96, from two HDF5 files or from shards, which need no h5py.

The class keys are the labels "0" and "1", since the files have no class names. torchvision's class cannot be pickled,
and opens both files for every image.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zsr.data.outside import printable, words
from zsr.data.samples import MOST_BLACK, Samples, whole
from zsr.data.shards import first_found
from zsr.params import StudyError, require_plain

IMAGES, LABELS = (f"pcam/camelyonpatch_level_2_split_test_{part}.h5" for part in "xy")
OPENING = threading.Lock()
SIDE = 96
BLOCK = 256  # images that are looked at together
MOST_IN_CHUNK = 2**28  # bytes that are packed together
MOST_ALIKE = 1000  # images in a row that have one label; the labels are in no order, and as many are 1 as 0
ANEW = "fetch the set anew"
SHARD_NAMES = {"lymph node": "0", "lymph node containing metastatic tumor tissue": "1"}


class Patches:
    """Images of an HDF5 file by number. Every process opens the file once.

    Attributes:
        path: the path of the file.
        owner: the id of the process that has opened the file; None: the file is not open.
        file: the open file, or None.
    """

    path: Path
    owner: int | None
    file: Any

    def __init__(self, path: Path) -> None:
        self.path = path
        self.owner, self.file = None, None

    def __getstate__(self) -> dict:
        return {"path": self.path, "owner": None, "file": None}

    def __call__(self, row: int) -> Image.Image:
        """The image of a number. Raises StudyError where the file does not give it."""
        try:
            return Image.fromarray(self._opened()["x"][row]).convert("RGB")
        except StudyError:
            raise
        except Exception as error:  # h5py raises exceptions of many types
            raise StudyError(
                f"image {row} of {self.path} cannot be read ({words(error)}): fetch the set anew"
            ) from None

    def _opened(self) -> Any:
        with OPENING:
            if self.owner != os.getpid():  # a handle from before a fork would share its position with the parent's
                self.file, self.owner = _h5py().File(self.path, "r"), os.getpid()
            return self.file


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("pcam", root, split, {Path(IMAGES): _parse}, SHARD_NAMES)


def _parse(root: Path, split: str) -> Samples:
    with _opened(root / IMAGES, "x", (SIDE, SIDE, 3)) as images:
        count, black = len(images), _black(images)
        if black > MOST_BLACK * count:
            raise ValueError(f"{black} of {count} images are black")
    with _opened(root / LABELS, "y", (1, 1, 1)) as stored:
        labels = whole(stored[...].reshape(-1))
    if len(labels) != count:
        raise StudyError(f"{root / IMAGES} has {count} images, and {root / LABELS} {len(labels)} labels: {ANEW}")
    if max(len(list(run)) for _, run in groupby(labels.tolist())) > MOST_ALIKE or len(set(labels.tolist())) < 2:
        raise StudyError(f"{root / LABELS} has one label for {MOST_ALIKE} images in a row, or for all of them: {ANEW}")
    ids = tuple(f"{split}/{row}" for row in range(count))
    return Samples(ids, labels, ("0", "1"), Patches(root / IMAGES))


@contextmanager
def _opened(path: Path, name: str, form: tuple[int, ...]) -> Iterator[Any]:
    """The array of bytes in an HDF5 file, after a check that all of it lies in this file, and has the form of the set.

    form: the axes but the first. Raises StudyError that names the file, also for what the caller raises.
    """
    h5py = _h5py()
    require_plain(path)
    try:
        with h5py.File(path, "r") as file:
            array = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
            if not isinstance(array, h5py.Dataset) or array.dtype != np.uint8 or array.shape[1:] != form:
                raise ValueError(f"{name} must be bytes, {' x '.join(map(str, form))} for each image")
            if array.is_virtual or array.external or not _is_written(array):
                raise ValueError(f"{name} was not written as a whole")
            yield array
    except StudyError:
        raise
    except Exception as error:  # h5py raises exceptions of many types
        raise StudyError(f"{printable(path)} cannot be read ({words(error)}): {ANEW}") from None


def _is_written(array: Any) -> bool:
    """Is there something on disk for every byte of an array? HDF5 gives zeros for the rest, without a word."""
    if array.chunks is None:
        return array.id.get_storage_size() == array.nbytes
    if np.prod(array.chunks, dtype=float) > MOST_IN_CHUNK:
        raise ValueError(f"more than {MOST_IN_CHUNK} bytes are packed together")
    return array.id.get_num_chunks() == np.prod([-(-n // m) for n, m in zip(array.shape, array.chunks)])


def _black(images: Any) -> int:
    """The number of images without a byte but 0."""
    return sum(
        int((~images[start : start + BLOCK].any(axis=(1, 2, 3))).sum()) for start in range(0, len(images), BLOCK)
    )


def _h5py() -> Any:
    """The library h5py, which is an optional dependency. Raises StudyError where it is missing."""
    try:
        import h5py
    except ImportError:
        raise StudyError("reading the HDF5 files of pcam needs h5py: `pip install h5py`, or use its shards") from None
    return h5py
