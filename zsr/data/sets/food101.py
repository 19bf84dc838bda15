"""food101: Food-101, 25,250 test images. The training split has noisy labels and is never read."""

import json
from pathlib import Path

from zsr.data.outside import read_text
from zsr.data.samples import Samples, numbered, of_files
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("food101", root, split, {Path("food-101/meta/test.json"): _parse})


def _parse(root: Path, split: str) -> Samples:
    folder = root / "food-101"
    listed = json.loads(read_text(folder / "meta" / f"{split}.json"))  # {"apple_pie": ["apple_pie/1005649", ...], ...}
    classes = sorted(listed)
    named = [(name, classes.index(key)) for key, names in listed.items() for name in names]
    paths, labels = [folder / "images" / f"{name}.jpg" for name, _ in named], [label for _, label in named]
    return numbered(of_files(folder, paths, labels, classes), split)
