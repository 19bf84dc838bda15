"""stl10: STL-10, 8,000 test images of 96x96. Labels on disk start at 1.

The 2.6 GB of images that have no label are not needed.
"""

from pathlib import Path

import numpy as np

from zsr.data.outside import read_lines
from zsr.data.samples import Samples, of_array, of_numbers
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("stl10", root, split, {Path("stl10_binary/test_X.bin"): _parse})


def _parse(root: Path, split: str) -> Samples:
    folder = root / "stl10_binary"
    pixels = np.fromfile(folder / f"{split}_X.bin", np.uint8).reshape(-1, 3, 96, 96)  # channels, columns, rows
    labels = np.fromfile(folder / f"{split}_y.bin", np.uint8).astype(np.int64) - 1
    samples = of_array(pixels.transpose(0, 3, 2, 1), labels, read_lines(folder / "class_names.txt"), split)
    return of_numbers(samples, "stl10")
