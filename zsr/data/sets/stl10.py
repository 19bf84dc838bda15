"""stl10: STL-10, 8,000 test images of 96x96. Labels on disk start at 1.

torchvision would hash 2.9 GB at every start, and would refuse the set without the 2.6 GB of images that have no label.
"""

from pathlib import Path

from zsr.data.samples import Samples, of_array
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("stl10", root, split, {Path("stl10_binary/test_X.bin"): _parse})


def _parse(root: Path, split: str) -> Samples:
    from torchvision.datasets import STL10

    class TestOnly(STL10):
        """torchvision's class without the training files, which are large and not used, and without checksums."""

        train_list: list[list[str]] = []
        test_list = [[file, None] for file, _ in STL10.test_list]

    dataset = TestOnly(root, split)
    return of_array(dataset.data.transpose(0, 2, 3, 1), dataset.labels, dataset.classes, split)
