"""cifar10: CIFAR-10, 10,000 test images of 32x32.

The files are pickles. They are read by `zsr.data.pickles`, which runs no code of theirs.
"""

from pathlib import Path

from zsr.data import pickles
from zsr.data.samples import Samples, of_numbers
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("cifar10", root, split, {Path("cifar-10-batches-py/test_batch"): _parse})


def _parse(root: Path, split: str) -> Samples:
    folder = root / "cifar-10-batches-py"
    samples = pickles.read(folder / "test_batch", "labels", folder / "batches.meta", "label_names", split)
    return of_numbers(samples, "cifar10")
