"""oxford_pets: Oxford-IIIT Pet, 3,669 test images, and 3,680 training images, which the publisher calls trainval.

The key of a breed is the part of a file's name before the number. On disk, cats have one capital and dogs none.
"""

from pathlib import Path

from zsr.data.outside import read_lines
from zsr.data.samples import Samples, of_files, require_apart
from zsr.data.shards import first_found
from zsr.params import StudyError

LISTS = {"train": "trainval", "test": "test"}


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    lists = f"oxford-iiit-pet/annotations/{LISTS.get(split, split)}.txt"
    return first_found("oxford_pets", root, split, {Path(lists): _parse})


def _parse(root: Path, split: str) -> Samples:
    folder = root / "oxford-iiit-pet"
    path = folder / "annotations" / f"{LISTS[split]}.txt"
    rows = [line.split() for line in read_lines(path)]
    images, labels = [row[0] for row in rows], [int(row[1]) - 1 for row in rows]  # rows "Abyssinian_201 1 1 1"
    breeds = {label: image.rpartition("_")[0] for image, label in zip(images, labels)}
    strange = [image for image, label in zip(images, labels) if image.rpartition("_")[0] != breeds[label]]
    if strange or len(set(breeds.values())) < len(breeds):
        raise StudyError(f"{path} has two numbers for a breed, or two breeds for a number: fetch the set anew")
    others = [folder / "annotations" / f"{name}.txt" for name in LISTS.values() if name != LISTS[split]]
    require_apart(path, images, others, lambda other: [line.split()[0] for line in read_lines(other)])
    keys = [breeds[label] for label in sorted(breeds)]
    return of_files(folder, [folder / "images" / f"{image}.jpg" for image in images], labels, keys)
