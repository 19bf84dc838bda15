"""oxford_pets: Oxford-IIIT Pet, 3,669 test images. A breed's key is what stands before the number in a file's name.

torchvision writes the names with capitals; on disk, cats have one capital and dogs none.
"""

from pathlib import Path

from zsr.data.samples import Samples, of_files
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    return first_found("oxford_pets", root, split, {Path("oxford-iiit-pet/annotations/test.txt"): _parse})


def _parse(root: Path, split: str) -> Samples:
    from torchvision.datasets import OxfordIIITPet

    found = OxfordIIITPet(root, split)
    breeds = {label: path.stem.rpartition("_")[0] for path, label in zip(found._images, found._labels)}
    keys = [breeds[label] for label in sorted(breeds)]
    return of_files(root / "oxford-iiit-pet", found._images, found._labels, keys)
