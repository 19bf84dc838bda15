"""A folder of one's own pictures, one folder for each class, as torchvision's ImageFolder lays it out."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from zsr import files
from zsr.data.outside import class_folders, hidden, numbered_lines, printable, visible_files
from zsr.data.prepared import Split
from zsr.data.samples import ENDINGS, chosen, number, of_files
from zsr.data.sources import Decoded
from zsr.params import StudyError, nearest

SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "trainval"}  # folders' names
MOST_TEMPLATES = 200  # of a file; the prompts of CLIP's authors for ImageNet are 80


def read(
    folder: Path,
    side: int,
    n: int = 0,
    seed: int = 0,
    classnames: dict[str, str] | None = None,
    resize: Literal["natural", "small"] = "natural",
) -> Split:
    """The pictures of a folder, each in the folder of its class.

    Args:
        folder: the folder. Its name is the name of the set.
        side: side of the square that pictures are brought to, in pixels.
        n: number of pictures, chosen by a hash of seed and path; 0: all.
        seed: the seed of the choice.
        classnames: folder of a class -> name for the prompt; None: the folder's name, with blanks for underscores.
        resize: "natural": the shorter side is resized and the centre cut out; "small": stretched to a square.

    Raises:
        StudyError: no such folder; fewer than two classes; a class without pictures or without a name; a picture that
            cannot be read.
    """
    classes = _classes(folder)
    names = _named(folder, [path.name for path in classes], classnames)
    found = [(path, label) for label, path in enumerate(classes) for path in visible_files(path, ENDINGS)]
    _tell_passed_over(folder, {path for path, _ in found})
    samples = of_files(folder, [p for p, _ in found], [label for _, label in found], [path.name for path in classes])
    rows = chosen(samples.ids, folder.name, n or len(found), seed)
    decoded = Decoded(samples, tuple(rows), resize, side)
    pixels = np.stack(list(decoded))
    ids = np.array([number(samples.ids[row], folder.name) for row in rows])
    return Split(pixels, samples.labels[rows], ids, tuple(path.name for path in classes), tuple(names))


def read_classnames(path: Path) -> dict[str, str]:
    """Names of classes from a text file: a line for each class, the folder's name, a tabulator and the name.

    Raises StudyError: a line has another form; a folder or a name is there twice.
    """
    names: dict[str, str] = {}
    for place, line in numbered_lines(path):
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 2 or not all(parts):
            said = f"{path}: line {place} must be FOLDER, a tabulator, and the class's name"
            raise StudyError(f"{said}, got '{printable(line)}'")
        if parts[0] in names or parts[1] in names.values():
            raise StudyError(f"{path}: line {place} repeats '{parts[0] if parts[0] in names else parts[1]}'")
        names[parts[0]] = parts[1]
    return names


def read_templates(path: Path) -> list[str]:
    """Prompts from a text file, a line for each, with {} for the class name. Raises StudyError for another line."""
    templates = []
    for place, line in numbered_lines(path):
        if line.count("{}") != 1:
            raise StudyError(f"{path}: line {place} must hold {{}} once, for the class name, got '{printable(line)}'")
        templates.append(line)
    if not templates:
        raise StudyError(f"{path} has no line; give one prompt on each, such as: a photo of a {{}}")
    if len(templates) > MOST_TEMPLATES:
        raise StudyError(f"{path} has {len(templates):,} lines, of which at most {MOST_TEMPLATES} are taken")
    return templates


def _classes(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise StudyError(f"{folder} is no folder; it must hold a folder of pictures for each class")
    classes = class_folders(folder)
    if len(classes) < 2:
        raise StudyError(f"{folder} must hold folders of pictures for at least two classes, got {len(classes)}")
    if {path.name.lower() for path in classes} <= SPLITS:
        names = ", ".join(path.name for path in classes)
        raise StudyError(f"{folder} holds the splits of a set ({names}), not its classes: name the folder of one split")
    empty = [printable(path.name) for path in classes if not visible_files(path, ENDINGS)]
    if empty:
        raise StudyError(f"{folder}: no picture ({', '.join(ENDINGS)}) in {', '.join(empty)}")
    return classes


def _tell_passed_over(folder: Path, taken: Collection[Path]) -> None:
    """Say how many files are no pictures by their names, or are pictures in no class: the numbers are without them."""
    others = [
        path
        for path in sorted(folder.rglob("*"))
        if path not in taken
        and not any(map(hidden, path.relative_to(folder).parts))
        and (path.parent != folder or path.name.lower().endswith(ENDINGS))
        and path.is_file()
    ]
    if others:
        first = printable(others[0].relative_to(folder))
        said = f"{len(others)} files are passed over, the first is {first}: a picture lies in the folder of its class"
        files.say(f"Warning: {printable(folder)}: {said}, and its name ends in {', '.join(ENDINGS)}")


def _named(folder: Path, keys: Sequence[str], classnames: dict[str, str] | None) -> list[str]:
    if classnames is None:
        nameless = [key for key in keys if not key.replace("_", " ").strip()]
        if nameless:
            raise StudyError(f"{folder}: the folder '{printable(nameless[0])}' names no class: rename it")
        return [key.replace("_", " ") for key in keys]
    without = [key for key in keys if key not in classnames]
    stray = [key for key in classnames if key not in keys]
    if without or stray:
        one = (
            f"no name for '{printable(without[0])}'{nearest(without[0], stray)}"
            if without
            else f"no folder '{stray[0]}'"
        )
        raise StudyError(f"{folder}: the names of classes do not fit its folders: {one}")
    return [classnames[key] for key in keys]
