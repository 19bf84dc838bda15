"""stanford_cars: Stanford Cars, 8,041 test images, in torchvision's layout or in the layout of TGA-ZSR's code.

Both layouts have the same images under different names and in different orders, so that their ids differ. The ids of
torchvision's layout are those of the shards. No host offers the images any more, so most users have shards.
"""

from pathlib import Path

import numpy as np

from zsr.data.samples import Samples, numbered, of_files
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    ways = {
        Path("stanford_cars/cars_test_annos_withlabels.mat"): _parse,
        Path("stanford_cars/cars_annos.mat"): _parse_one_file,
    }
    return first_found("stanford_cars", root, split, ways)


def _parse(root: Path, split: str) -> Samples:
    from torchvision.datasets import StanfordCars

    dataset = StanfordCars(root, split)
    paths, labels = zip(*dataset._samples)
    return numbered(of_files(root / "stanford_cars", paths, labels, dataset.classes), split)


def _parse_one_file(root: Path, split: str) -> Samples:
    """Parse the layout with the images of both splits in one folder, where a flag marks the test images."""
    from scipy.io import loadmat

    folder = root / "stanford_cars"
    content = loadmat(folder / "cars_annos.mat", squeeze_me=True)
    notes = np.atleast_1d(content["annotations"])
    notes = notes[notes["test"].astype(int) == 1]
    paths = [folder / str(path) for path in notes["relative_im_path"]]
    keys = [str(key) for key in np.atleast_1d(content["class_names"])]
    return of_files(folder, paths, notes["class"].astype(int) - 1, keys)
