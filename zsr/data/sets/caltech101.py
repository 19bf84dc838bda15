"""caltech101: Caltech-101, all 8,677 images without the class BACKGROUND_Google; in ASCII order, so Faces comes first.

The folders are listed here. torchvision guesses paths from the number of files and the names of classes: a stray file
then shifts all later images, and names that were cleaned in place point to folders that do not exist.
"""

from pathlib import Path

from zsr.data.samples import Samples, of_class_folders
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("caltech101", root, split, {Path("caltech101/101_ObjectCategories"): _parse})


def _parse(root: Path, split: str) -> Samples:
    return of_class_folders(root / "caltech101", "101_ObjectCategories", without=("BACKGROUND_Google",), deep=False)
