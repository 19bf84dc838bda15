"""sun397: SUN397, all 108,754 images, sorted: torchvision lists them as the disk happens to.

A class's key is its line of ClassName.txt, "/a/apartment_building/outdoor". Some .jpg files are no JPEG.
"""

from pathlib import Path

from zsr.data.samples import Samples, of_files
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("sun397", root, split, {Path("SUN397/ClassName.txt"): _parse})


def _parse(root: Path, split: str) -> Samples:
    from torchvision.datasets import SUN397

    found = SUN397(root)
    paths, labels = zip(*sorted(zip(found._image_files, found._labels)))
    keys = (root / "SUN397" / "ClassName.txt").read_text().split()
    return of_files(root / "SUN397", paths, labels, keys)
