"""food101: Food-101, 25,250 test images. The training split has noisy labels and is never read."""

from pathlib import Path

from zsr.data.samples import Samples, of_files
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("food101", root, split, {Path("food-101/meta/test.json"): _parse})


def _parse(root: Path, split: str) -> Samples:
    from torchvision.datasets import Food101

    dataset = Food101(root, split)
    return of_files(root / "food-101", dataset._image_files, dataset._labels, dataset.classes)
