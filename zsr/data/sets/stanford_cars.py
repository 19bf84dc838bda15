"""stanford_cars: Stanford Cars, 8,041 test images, in torchvision's layout or in the layout of TGA-ZSR's code.

Both layouts have the same images under different names and in different orders, so that their ids differ. The ids of
torchvision's layout are those of the shards. No host offers the images any more, so most users have shards.
"""

from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path

from zsr.data import matlab
from zsr.data.outside import printable, visible_files
from zsr.data.samples import ENDINGS, Samples, numbered, of_files, whole
from zsr.data.shards import first_found
from zsr.params import StudyError


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    ways = {
        Path("stanford_cars/cars_test_annos_withlabels.mat"): _parse,
        Path("stanford_cars/cars_annos.mat"): _parse_one_file,
    }
    return first_found("stanford_cars", root, split, ways)


def _parse(root: Path, split: str) -> Samples:
    folder = root / "stanford_cars"
    [notes] = matlab.load(folder / "cars_test_annos_withlabels.mat", "annotations")
    paths = [folder / "cars_test" / str(name) for name in notes["fname"]]
    images = len(visible_files(folder / "cars_test", ENDINGS))
    if images > len(paths):  # those of the training split have the same names, and are more
        said = f"{printable(folder / 'cars_test')} has {images} images, and the list of test images {len(paths)}"
        raise StudyError(f"{said}: these are not the test images: fetch the set anew")
    return numbered(_of_notes(folder, paths, notes, folder / "devkit" / "cars_meta.mat"), split)


def _parse_one_file(root: Path, split: str) -> Samples:
    """Parse the layout with the images of both splits in one folder, where a flag marks the test images."""
    folder = root / "stanford_cars"
    [notes] = matlab.load(folder / "cars_annos.mat", "annotations")
    test = whole(notes["test"]) == 1
    notes = {name: list(compress(column, test)) for name, column in notes.items()}
    return _of_notes(
        folder, [folder / str(path) for path in notes["relative_im_path"]], notes, folder / "cars_annos.mat"
    )


def _of_notes(folder: Path, paths: Sequence[Path], notes: Mapping[str, list], classes: Path) -> Samples:
    [keys] = matlab.load(classes, "class_names")
    return of_files(folder, paths, whole(notes["class"]) - 1, [str(key) for key in keys])
