"""dtd: Describable Textures, 1,880 test images of partition 1 of ten. The folder is dtd/dtd, as for torchvision."""

from pathlib import Path

from zsr.data.outside import read_lines
from zsr.data.samples import Samples, of_files, require_apart
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("dtd", root, split, {Path("dtd/dtd/labels/test1.txt"): _parse})


def _parse(root: Path, split: str) -> Samples:
    folder = root / "dtd" / "dtd"
    path = folder / "labels" / "test1.txt"  # lines "banded/banded_0002.jpg"
    listed = read_lines(path)
    require_apart(path, listed, [path.with_name(f"{other}1.txt") for other in ("train", "val")], read_lines)
    keys = [line.split("/")[0] for line in listed]
    classes = sorted(set(keys))
    return of_files(folder, [folder / "images" / line for line in listed], [classes.index(k) for k in keys], classes)
