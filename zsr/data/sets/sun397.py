"""sun397: SUN397, all 108,754 images, sorted by path. torchvision lists the images in the order of the disk.

The key of a class is its line of ClassName.txt, "/a/apartment_building/outdoor". Some .jpg files are no JPEG.
"""

from pathlib import Path

from zsr.data.samples import Samples, of_files
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("sun397", root, split, {Path("SUN397/ClassName.txt"): _parse})


def _parse(root: Path, split: str) -> Samples:
    from torchvision.datasets import SUN397

    dataset = SUN397(root)
    paths, labels = zip(*sorted(zip(dataset._image_files, dataset._labels)))
    keys = (root / "SUN397" / "ClassName.txt").read_text(encoding="utf-8-sig").split()
    return of_files(root / "SUN397", paths, labels, keys)
