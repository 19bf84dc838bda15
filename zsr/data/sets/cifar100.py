"""cifar100: CIFAR-100 with fine labels, 10,000 test and 50,000 training images of 32x32.

The files are pickles. They are read by `zsr.data.pickles`, which runs no code of theirs.
"""

from pathlib import Path

from zsr.data import pickles
from zsr.data.samples import Samples, of_numbers
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("cifar100", root, split, {Path("cifar-100-python", split): _parse})


def _parse(root: Path, split: str) -> Samples:
    folder = root / "cifar-100-python"
    samples = pickles.read(folder / split, "fine_labels", folder / "meta", "fine_label_names", split)
    return of_numbers(samples, "cifar100")
