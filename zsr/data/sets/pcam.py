"""pcam: PatchCamelyon, 32,768 test images of 96x96, from two HDF5 files or from shards, which need no h5py.

The class keys are the labels "0" and "1", since the files have no class names. torchvision's class cannot be pickled,
and opens both files for every image.
"""

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zsr.data.outside import printable
from zsr.data.samples import Samples
from zsr.data.shards import first_found
from zsr.params import StudyError

IMAGES, LABELS = (f"pcam/camelyonpatch_level_2_split_test_{part}.h5" for part in "xy")
OPENING = threading.Lock()
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
            reason = printable(str(error).partition("\n")[0])
            raise StudyError(f"image {row} of {self.path} cannot be read ({reason}): fetch the set anew") from None

    def _opened(self) -> Any:
        with OPENING:
            if self.owner != os.getpid():  # a handle from before a fork would share its position with the parent's
                self.file, self.owner = _h5py().File(self.path, "r"), os.getpid()
            return self.file


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("pcam", root, split, {Path(IMAGES): _parse}, SHARD_NAMES)


def _parse(root: Path, split: str) -> Samples:
    with _h5py().File(root / LABELS, "r") as file:
        labels = np.asarray(file["y"], np.int64).reshape(-1)
    ids = tuple(f"{split}/{row}" for row in range(len(labels)))
    return Samples(ids, labels, ("0", "1"), Patches(root / IMAGES))


def _h5py() -> Any:
    """The library h5py, which is an optional dependency. Raises StudyError where it is missing."""
    try:
        import h5py
    except ImportError:
        raise StudyError("reading the HDF5 files of pcam needs h5py: `pip install h5py`, or use its shards") from None
    return h5py
