"""eurosat: EuroSAT in RGB, all 27,000 images, as it has no split. VTAB's shards of 5,400 images are no substitute."""

from pathlib import Path

from zsr.data.samples import Samples, of_files
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("eurosat", root, split, {Path("eurosat/2750"): _parse})


def _parse(root: Path, split: str) -> Samples:
    from torchvision.datasets import EuroSAT

    found = EuroSAT(root)
    paths, labels = zip(*found.samples)
    return of_files(root / "eurosat", paths, labels, found.classes)
