"""One split of a public set as it lies on disk: images by number, opened when they are needed, and who they are."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import Image

from zsr.data.registry import entry
from zsr.errors import ParamError, StudyError

COMMAND = "python -m stages.fetch"


@dataclass(frozen=True)
class Samples:
    """N images of C classes.

    Attributes:
        ids: (N,) relative paths, shard and key, or row numbers: the same on every machine, none twice.
        labels: (N,) int64 in [0, C).
        raw_keys: (C,) class keys exactly as on disk, in the order of the labels.
        load: the image of a number, in any mode; may be sent to another process and called by threads.
        backend: the form that was read.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    raw_keys: tuple[str, ...]
    load: Callable[[int], Image.Image]
    backend: Literal["torchvision", "shards"] = "torchvision"


@dataclass(frozen=True)
class ImageFiles:
    """Opens the image files of a folder by number.

    Attributes:
        folder: the folder.
        names: (N,) paths in it.
    """

    folder: Path
    names: tuple[str, ...]

    def __call__(self, row: int) -> Image.Image:
        """The image of a number. Raises StudyError where its file is missing or damaged."""
        return decoded(self.folder / self.names[row], self.folder / self.names[row])


@dataclass(frozen=True)
class ImageArray:
    """Images that are in memory anyway.

    Attributes:
        pixels: (N, H, W, 3) uint8.
    """

    pixels: np.ndarray

    def __call__(self, row: int) -> Image.Image:
        """The image of a number."""
        return Image.fromarray(self.pixels[row])


def decoded(file: Path | IO[bytes], name: object) -> Image.Image:
    """The image in a file, with all its pixels. Raises StudyError naming it where it is missing or damaged."""
    try:
        with Image.open(file) as image:
            image.load()
            return image
    except (OSError, SyntaxError) as error:  # Pillow calls some damage a SyntaxError
        reason = getattr(error, "strerror", None) or "it is damaged or no image"
        raise StudyError(f"{name} cannot be read ({reason}): put the file back, or fetch the set anew") from None


def of_files(folder: Path, paths: Sequence[str | Path], labels: Sequence[int], raw_keys: Sequence[str]) -> Samples:
    """Image files below a folder, whose ids are their paths in it."""
    names = tuple(Path(os.path.relpath(path, folder)).as_posix() for path in paths)
    return Samples(names, np.asarray(labels, np.int64), tuple(raw_keys), ImageFiles(folder, names))


def of_array(pixels: np.ndarray, labels: Sequence[int], raw_keys: Sequence[str], split: str) -> Samples:
    """Images (N, H, W, 3) of one big file, whose ids are the split and their row in it."""
    ids = tuple(f"{split}/{row}" for row in range(len(pixels)))
    return Samples(ids, np.asarray(labels, np.int64), tuple(raw_keys), ImageArray(pixels))


def of_class_folders(root: Path, parent: str, without: Sequence[str] = ()) -> Samples:
    """The .jpg files directly in the folders of a folder below root, one class each, all sorted."""
    classes = sorted(path for path in (root / parent).iterdir() if path.is_dir() and path.name not in without)
    found = [(path, label) for label, of in enumerate(classes) for path in sorted(of.glob("*.jpg"))]
    return of_files(root, [path for path, _ in found], [label for _, label in found], [of.name for of in classes])


def known_split(name: str, split: str) -> None:
    """Raises ParamError where a set has no such split."""
    if split not in entry(name).splits:
        raise ParamError(f"{name} has no split '{split}' (it has: {', '.join(entry(name).splits)})")


@contextmanager
def parsing(name: str, path: Path, layout: str) -> Iterator[None]:
    """Whatever a parser makes of files that are not laid out as they should be becomes one StudyError line."""
    try:
        yield
    except StudyError:
        raise
    except Exception as error:  # ten formats and as many libraries raise what they like
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        way = f"expected is {layout}; move it away and run `{COMMAND} {name}`"
        raise StudyError(f"{name}: {path} is not laid out as it should be ({reason}): {way}") from None


def missing(name: str, looked: Sequence[Path], split: str = "test") -> StudyError:
    """Says what was looked for and which command gets it."""
    option = "" if split == "test" else f" --split {split}"
    places = " or ".join(map(str, looked))
    way = f"get it with `{COMMAND} {name}{option}` at the repository's root, or set DATA_ROOT to where it lies"
    return StudyError(f"{name} ({split}) is not here: there is no {places}; {way}")


def checked(samples: Samples, name: str, split: str, *, complete: bool = True) -> Samples:
    """The samples, if they can be those of a set; complete: all its images and classes must be there.

    Raises StudyError saying what there is and what must be.
    """
    of, n, classes = entry(name), len(samples.ids), len(samples.raw_keys)
    known_split(name, split)
    if not n == len(samples.labels) or not n:
        raise StudyError(f"{of.key} ({split}) has {n} images and {len(samples.labels)} labels: fetch it anew")
    if classes == 1:
        raise StudyError(
            f"{of.key} ({split}) has one class, '{samples.raw_keys[0]}', not {of.num_classes}: its folders are no "
            "classes, and every label would be 0"
        )
    twice = [sample for sample, times in Counter(samples.ids).items() if times > 1]
    if twice:
        raise StudyError(f"{of.key} ({split}) has {len(twice)} images twice, as {twice[0]}: remove one of each")
    low, high = samples.labels.min(), samples.labels.max()
    if low < 0 or high >= classes:
        raise StudyError(f"{of.key} ({split}) has {classes} classes, but labels from {low} to {high}: fetch it anew")
    if complete:
        _check_complete(samples, name, split)
    return samples


def _check_complete(samples: Samples, name: str, split: str) -> None:
    of = entry(name)
    anew = f"move it away and run `{COMMAND} {of.key}`"
    for what, has, must in [
        ("classes", len(samples.raw_keys), of.num_classes),
        ("images", len(samples.ids), of.splits[split]),
    ]:
        if has != must:
            raise StudyError(f"{of.key} ({split}) has {has} {what}, must have {must}: {anew}")
    empty = set(range(of.num_classes)) - set(samples.labels.tolist())
    if empty:
        first = samples.raw_keys[min(empty)]
        raise StudyError(f"{of.key} ({split}) has no image of {len(empty)} classes, the first is '{first}': {anew}")


def chosen(ids: Sequence[str], set_name: str, n: int, seed: int) -> list[int]:
    """The rows of n images, or of all there are, in an order of their own.

    The order is that of a hash of seed, set and id, so it does not depend on that of the ids, fewer are the first of
    more, and two seeds share no more than chance has it.
    """

    def place(row: int) -> bytes:
        return _hash(f"{seed}|{set_name}|{ids[row]}", 16)

    return sorted(range(len(ids)), key=place)[:n]


def number(sample_id: str, set_name: str) -> int:
    """An image's own number in [0, 2^63): what records and noise know it by."""
    return int.from_bytes(_hash(f"{set_name}|{sample_id}", 8), "big") >> 1


def _hash(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=size).digest()
