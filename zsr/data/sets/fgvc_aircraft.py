"""fgvc_aircraft: FGVC-Aircraft, 3,333 test images, classes of the level "variant", as "707-320" or "F/A-18".

A variant may contain blanks. The credit at the bottom of every picture stays in the image, as in all papers.
"""

from pathlib import Path

from zsr.data.outside import read_lines
from zsr.data.samples import Samples, numbered, of_files, require_apart
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("fgvc_aircraft", root, split, {Path("fgvc-aircraft-2013b/data/images_variant_test.txt"): _parse})


def _parse(root: Path, split: str) -> Samples:
    folder = root / "fgvc-aircraft-2013b"
    classes = read_lines(folder / "data" / "variants.txt")
    path = folder / "data" / f"images_variant_{split}.txt"
    rows = [line.split(" ", 1) for line in read_lines(path)]
    others = [path.with_name(f"images_variant_{other}.txt") for other in ("train", "val")]
    require_apart(path, [row[0] for row in rows], others, lambda other: [line.split()[0] for line in read_lines(other)])
    paths = [folder / "data" / "images" / f"{image}.jpg" for image, _ in rows]
    return numbered(of_files(folder, paths, [classes.index(variant) for _, variant in rows], classes), split)
