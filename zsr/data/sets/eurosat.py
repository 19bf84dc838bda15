"""eurosat: EuroSAT in RGB, all 27,000 images, since there is no split. VTAB's shards of 5,400 images differ."""

from dataclasses import replace
from pathlib import Path

from zsr.data.samples import Samples, of_class_folders
from zsr.data.shards import first_found

FIRST, LATER = "2750", "EuroSAT_RGB"  # the folder of the classes in the two archives of the authors


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    ways = {Path("eurosat", FIRST): _parse, Path("eurosat", LATER): _parse_later}
    return first_found("eurosat", root, split, ways)


def _parse(root: Path, split: str) -> Samples:
    return of_class_folders(root / "eurosat", FIRST)


def _parse_later(root: Path, split: str) -> Samples:
    """Parse the later archive. Its images have the ids that they have in the first one."""
    samples = of_class_folders(root / "eurosat", LATER)
    return replace(samples, ids=tuple(FIRST + name.removeprefix(LATER) for name in samples.ids))
