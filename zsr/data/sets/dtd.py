"""dtd: Describable Textures, 1,880 test images of partition 1 of ten. The folder is dtd/dtd, as for torchvision."""

from pathlib import Path

from zsr.data.samples import Samples, of_files
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("dtd", root, split, {Path("dtd/dtd/labels/test1.txt"): _parse})


def _parse(root: Path, split: str) -> Samples:
    from torchvision.datasets import DTD

    dataset = DTD(root, split, partition=1)
    return of_files(root / "dtd" / "dtd", dataset._image_files, dataset._labels, dataset.classes)
