"""food101: Food-101, 25,250 test images. The training split has noisy labels and is never read."""

import json
from pathlib import Path

from zsr.data.outside import printable, read_text
from zsr.data.samples import Samples, numbered, of_files
from zsr.data.shards import first_found
from zsr.params import StudyError


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("food101", root, split, {Path("food-101/meta/test.json"): _parse})


def _parse(root: Path, split: str) -> Samples:
    folder = root / "food-101"
    path = folder / "meta" / f"{split}.json"  # {"apple_pie": ["apple_pie/1005649", ...], ...}
    listed = json.loads(read_text(path), object_pairs_hook=_without_repeats)
    strange = [name for key, names in listed.items() for name in names if not str(name).startswith(f"{key}/")]
    if strange:
        raise StudyError(f"{path} lists '{printable(strange[0])}' for another class: fetch the set anew")
    classes = sorted(listed)
    named = [(name, classes.index(key)) for key, names in listed.items() for name in names]
    paths, labels = [folder / "images" / f"{name}.jpg" for name, _ in named], [label for _, label in named]
    return numbered(of_files(folder, paths, labels, classes), split)


def _without_repeats(pairs: list[tuple[str, list[str]]]) -> dict[str, list[str]]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a class is listed twice")
    return dict(pairs)
