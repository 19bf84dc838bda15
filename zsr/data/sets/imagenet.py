"""imagenet: ImageNet (ILSVRC 2012), the 50,000 images of "val", and 1,281,167 for training; folders are WordNet ids.

Labels follow the sorted ids, not the numbers of the devkit. torchvision's ImageNet class gives the same labels, but it
needs a file meta.bin, or else unpacks archives. meta.bin is not needed here.
"""

from pathlib import Path

from zsr.data.registry import entry
from zsr.data.samples import Samples, numbered, of_class_folders
from zsr.data.shards import first_found

FOLDERS = {"test": "val", "train": "train"}


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("imagenet", root, split, {Path("imagenet", FOLDERS.get(split, split)): _parse})


def _parse(root: Path, split: str) -> Samples:
    """Parse folders of classes. The whole "val" has the ids that the shards have; a part of it keeps its paths."""
    samples = of_class_folders(root / "imagenet", FOLDERS[split])
    whole = split == "test" and len(samples.ids) == entry("imagenet").splits[split]
    return numbered(samples, split) if whole else samples
