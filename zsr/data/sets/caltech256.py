"""caltech256: Caltech-256, all 30,607 images, the class 257.clutter among them.

The folders are listed here. torchvision guesses paths from the number of files: a stray file or a gap then shifts all
later images. Files other than .jpg are skipped.
"""

from pathlib import Path

from zsr.data.samples import Samples, of_class_folders
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("caltech256", root, split, {Path("caltech256/256_ObjectCategories"): _parse})


def _parse(root: Path, split: str) -> Samples:
    return of_class_folders(root / "caltech256", "256_ObjectCategories", deep=False)
