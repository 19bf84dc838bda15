"""oxford_pets: Oxford-IIIT Pet, 3,669 test images, and 3,680 training images, which the publisher calls trainval.

The key of a breed is the part of a file's name before the number. torchvision writes the names with capitals; on disk,
cats have one capital and dogs none.
"""

from pathlib import Path

from zsr.data.samples import Samples, of_files
from zsr.data.shards import first_found

LISTS = {"train": "trainval", "test": "test"}


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    lists = f"oxford-iiit-pet/annotations/{LISTS.get(split, split)}.txt"
    return first_found("oxford_pets", root, split, {Path(lists): _parse})


def _parse(root: Path, split: str) -> Samples:
    from torchvision.datasets import OxfordIIITPet

    dataset = OxfordIIITPet(root, LISTS[split])
    breeds = {label: path.stem.rpartition("_")[0] for path, label in zip(dataset._images, dataset._labels)}
    keys = [breeds[label] for label in sorted(breeds)]
    return of_files(root / "oxford-iiit-pet", dataset._images, dataset._labels, keys)
