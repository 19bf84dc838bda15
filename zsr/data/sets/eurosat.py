"""eurosat: EuroSAT in RGB, all 27,000 images, since there is no split. VTAB's shards of 5,400 images differ."""

from pathlib import Path

from zsr.data.samples import Samples, of_class_folders
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("eurosat", root, split, {Path("eurosat/2750"): _parse})


def _parse(root: Path, split: str) -> Samples:
    return of_class_folders(root / "eurosat", "2750")
