"""flowers102: Flowers-102, 6,149 test images. On disk classes have numbers only; the keys are torchvision's names.

torchvision reads the same two small files, and holds other numbers of images or of labels for right.
"""

from pathlib import Path

from zsr.data import matlab
from zsr.data.samples import Samples, of_files
from zsr.data.shards import first_found
from zsr.params import StudyError

SPLITS = ("trnid", "valid", "tstid")


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("flowers102", root, split, {Path("flowers-102/setid.mat"): _parse})


def _parse(root: Path, split: str) -> Samples:
    from torchvision.datasets import Flowers102

    folder = root / "flowers-102"
    [numbers], chosen = matlab.load(folder / "imagelabels.mat", "labels"), folder / "setid.mat"
    train, valid, test = matlab.load(chosen, *SPLITS)
    others = {*train, *valid}
    if others & set(test) or others | set(test) != set(range(1, len(numbers) + 1)):
        raise StudyError(f"{chosen} must have each of {len(numbers)} images in one split: fetch the set anew")
    paths = [folder / "jpg" / f"image_{image:05d}.jpg" for image in test]
    return of_files(folder, paths, [numbers[image - 1] - 1 for image in test], Flowers102.classes)
