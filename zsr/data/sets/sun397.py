"""sun397: SUN397, all 108,754 images, sorted by path.

The key of a class is its line of ClassName.txt, "/a/apartment_building/outdoor". Some .jpg files are no JPEG.
"""

from pathlib import Path

from zsr.data.outside import read_lines, visible_files
from zsr.data.samples import Samples, of_files
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("sun397", root, split, {Path("SUN397/ClassName.txt"): _parse})


def _parse(root: Path, split: str) -> Samples:
    folder = root / "SUN397"
    keys = read_lines(folder / "ClassName.txt")
    label = {key: at for at, key in enumerate(keys)}
    paths = [path for path in visible_files(folder, (".jpg",)) if path.name.startswith("sun_")]
    labels = [label[f"/{path.parent.relative_to(folder).as_posix()}"] for path in paths]
    return of_files(folder, paths, labels, keys)
