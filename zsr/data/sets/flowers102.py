"""flowers102: Flowers-102, 6,149 test images. On disk classes have numbers only; the keys are torchvision's names.

torchvision would hash two small files at every start. The files were checked when they were fetched.
"""

from pathlib import Path

from zsr.data.samples import Samples, of_files
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("flowers102", root, split, {Path("flowers-102/setid.mat"): _parse})


def _parse(root: Path, split: str) -> Samples:
    from torchvision.datasets import Flowers102

    class Unhashed(Flowers102):
        """torchvision's class without its checksums."""

        _file_dict = {key: (file, None) for key, (file, _) in Flowers102._file_dict.items()}

    dataset = Unhashed(root, split)
    return of_files(root / "flowers-102", dataset._image_files, dataset._labels, dataset.classes)
