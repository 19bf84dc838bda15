"""Tar shards of the Hub's clip-benchmark repositories, read in any order; and the choice of the form of a set on disk.

A folder holds `classnames.txt`, `test/nshards.txt` and `test/0.tar`, `test/1.tar`, ... with members `s0000000.jpg` (or
png, webp) and `s0000000.cls`, the label as digits. Class names and labels that are not recognised are errors.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from zsr.data import tars
from zsr.data.outside import printable, read_lines
from zsr.data.prompts import ClassRow, rows
from zsr.data.registry import entry
from zsr.data.samples import (
    COMMAND,
    Samples,
    decoded,
    known_split,
    missing,
    parsing,
    require_plain_files,
    row_ids,
)
from zsr.params import StudyError

IMAGES = ("jpg", "jpeg", "png", "webp")
LAYOUT = "classnames.txt, test/nshards.txt, test/<n>.tar with s<7 digits>.<jpg, png or webp> and s<7 digits>.cls"
MOST_SHARDS = 10_000  # the public sets have up to 40
IMAGE_BYTES, LABEL_BYTES = 2**28, 20
REWORDED = 0.05  # share of class names that may be unknown, where all other names are in our order


@dataclass(frozen=True)
class Member:
    """The place of an image in a shard.

    Attributes:
        shard: path of the tar file in the folder of shards.
        key: the member's name without its ending.
        start: offset of the member's first byte in the tar file.
        size: size of the member in bytes.
    """

    shard: str
    key: str
    start: int
    size: int


@dataclass(frozen=True)
class ShardImages:
    """Opens images of shards by number. Every call opens the file, so that threads and processes share nothing.

    Attributes:
        folder: the folder of shards.
        members: (N,) the places of the images.
    """

    folder: Path
    members: tuple[Member, ...]

    def __call__(self, row: int) -> Image.Image:
        """The image of a number. Raises StudyError where its shard cannot be read, or the image is damaged."""
        member = self.members[row]
        path = self.folder / member.shard
        try:
            with path.open("rb") as file:
                file.seek(member.start)
                content = file.read(member.size)
        except OSError as error:
            raise StudyError(f"{path} cannot be read ({error.strerror}): fetch the set anew") from None
        return decoded(io.BytesIO(content), f"{member.key} in {path}")


def first_found(
    name: str,
    root: Path,
    split: str,
    ways: Mapping[Path, Callable[[Path, str], Samples]],
    aliases: Mapping[str, str] | None = None,
) -> Samples:
    """The samples from the first parser whose file or folder exists below root; from shards where no such path exists.

    ways: path below root -> parser of (root, split). aliases: class name of the set's shards -> our raw key. Raises
    StudyError: the set is not on disk, or has another layout; ParamError: no such split.
    """
    known_split(name, split)
    root = Path(root)
    for path, parse in ways.items():
        if (root / path).exists():
            with parsing(name, root / path, entry(name).layout):
                require_plain_files(root / path.parts[0])
                return parse(root, split)
    hubs = [source for source in entry(name).sources if source.kind == "hub" and split in source.splits]
    for source in hubs:
        if (root / source.folder).is_dir():
            with parsing(name, root / source.folder, LAYOUT):
                require_plain_files(root / source.folder)
                return read(name, root / source.folder, split, aliases, source.order == "torchvision")
    raise missing(name, [*(root / path for path in ways), *(root / source.folder for source in hubs)], split)


def read(
    name: str, folder: Path, split: str = "test", aliases: Mapping[str, str] | None = None, by_row: bool = False
) -> Samples:
    """The samples in a folder of shards. Labels follow our order of classes, not the order of the shards.

    by_row: are keys the row numbers of torchvision's order? Then these rows are the ids.
    """
    lines = read_lines(folder / "classnames.txt")
    classes = recognised(name, lines, rows(name), aliases or {})
    members: list[Member] = []
    labels: list[int] = []
    home: dict[str, str] = {}  # key of an image -> its shard
    for shard in _shards(folder, split):
        for member, label in _index(folder, shard, len(classes)):
            if member.key in home:
                raise StudyError(
                    f"{folder / shard}: {printable(member.key)} is in {home[member.key]}, too: fetch the shards anew"
                )
            home[member.key] = shard
            members.append(member)
            labels.append(label)
    ids = [f"{member.shard}/{member.key}" for member in members]
    if by_row:
        ids = list(row_ids(_rows(folder, members, entry(name).splits[split]), split))
    here = sorted(classes)
    ours = np.array([here.index(row) for row in classes])
    return Samples(
        tuple(ids),
        ours[np.asarray(labels, np.int64)],
        tuple(rows(name)[row].raw_key for row in here),
        ShardImages(folder, tuple(members)),
        "shards",
    )


def _rows(folder: Path, members: Sequence[Member], images: int) -> list[int]:
    """The row numbers of images. images: the number of images of the split.

    Raises StudyError where a row is not there, and a later one is: an image is lost.
    """
    found = [_row(folder, member, images) for member in members]
    gap = next(((row, later) for row, later in enumerate(sorted(found)) if row != later), None)
    if gap:
        raise StudyError(f"{folder} has no image s{gap[0]:07d}, but s{gap[1]:07d}: fetch the set anew")
    return found


def recognised(name: str, lines: Sequence[str], known: Sequence[ClassRow], aliases: Mapping[str, str]) -> list[int]:
    """Our label of each class name: by position where the names are in our order, else by the names alone.

    Raises StudyError: a name fits no class, two classes, or a class that an earlier name has taken.
    """
    names = [_names(row) | {plain(line) for line, key in aliases.items() if key == row.raw_key} for row in known]
    every = set().union(*names)
    if len(lines) == len(known):
        ours = [plain(line) in spellings for line, spellings in zip(lines, names)]
        strange = [plain(line) not in every for line in lines]
        if all(map(any, zip(ours, strange))) and sum(strange) <= REWORDED * len(known):
            return list(range(len(known)))
    labels: list[int] = []
    for line in lines:
        fitting = [row for row, spellings in enumerate(names) if plain(line) in spellings]
        if len(fitting) != 1 or fitting[0] in labels:
            free = len(set(fitting) - set(labels))
            raise StudyError(
                f"{name}: '{line}' in classnames.txt fits {free} of the classes left in classnames/{name}.tsv, must "
                "fit one: the shards are not those of the registry"
            )
        labels += fitting
    return labels


def plain(text: str) -> str:
    """A name in lower case, with letters and digits only: spellings differ in case, blanks and signs."""
    return "".join(filter(str.isalnum, text.lower()))


def _names(row: ClassRow) -> set[str]:
    return {plain(text) for text in (row.raw_key, row.name_official, row.name_clean, row.name_openclip) if text}


def _shards(folder: Path, split: str) -> list[str]:
    """Paths of the shards in the folder, as many as nshards.txt gives."""
    path = folder / split / "nshards.txt"
    lines = read_lines(path, most=1000)
    if len(lines) != 1 or not _is_number(lines[0]) or not 0 < int(lines[0]) <= MOST_SHARDS:
        said = printable(" ".join(lines))[:40]
        raise StudyError(f"{path} must hold a number of shards from 1 to {MOST_SHARDS}, got '{said}': fetch it anew")
    shards = [f"{split}/{shard}.tar" for shard in range(int(lines[0]))]
    more = folder / split / f"{len(shards)}.tar"
    if more.exists():
        raise StudyError(f"{path} says {len(shards)} shards, and {more.name} is there, too: fetch the set anew")
    gone = [shard for shard in shards if not (folder / shard).is_file()]
    if gone:
        raise StudyError(
            f"{folder} lacks {len(gone)} of {len(shards)} shards, {', '.join(gone[:3])}: run `{COMMAND}` again"
        )
    return shards


def _index(folder: Path, shard: str, classes: int) -> list[tuple[Member, int]]:
    """Images of a shard with the labels of the shard, in the order of the file. No pixel is read."""
    images: dict[str, Member] = {}
    labels: dict[str, int] = {}
    last = ""
    try:
        for tar, info in tars.members(folder / shard, "r:"):
            last = info.name
            key, _, kind = info.name.partition(".")
            if kind != "cls" and kind not in IMAGES:
                continue
            if key in (labels if kind == "cls" else images):
                raise _fault(folder / shard, info.name, f"{key} has two {'labels' if kind == 'cls' else 'images'}")
            most = LABEL_BYTES if kind == "cls" else IMAGE_BYTES
            if not info.isreg() or info.size > most:
                raise _fault(folder / shard, info.name, f"it must be a file of at most {most} bytes, got {info.size}")
            if kind == "cls":
                labels[key] = _label(folder / shard, info.name, tar.extractfile(info), classes)
            else:
                images[key] = Member(shard, key, info.offset_data, info.size)
    except StudyError:
        raise
    except Exception as error:  # of the reader of archives
        place = f"after {printable(last)}" if last else "at its start"
        reason = printable(str(error) or type(error).__name__)
        raise StudyError(f"{folder / shard} is damaged {place} ({reason}): fetch the shard anew") from None
    odd = sorted(images.keys() ^ labels.keys())
    if odd or not images:
        fault = f"{printable(odd[0])} has no image or no label" if odd else "no images"
        raise StudyError(f"{folder / shard}: {fault}: fetch the shard anew")
    return [(member, labels[key]) for key, member in images.items()]


def _label(shard: Path, name: str, file: IO[bytes] | None, classes: int) -> int:
    assert file is not None, "a regular member can be read"
    text = file.read().decode("ascii", "replace").strip()
    if not _is_number(text) or int(text) >= classes:
        raise _fault(shard, name, f"it must hold a label from 0 to {classes - 1}, got '{text}'")
    return int(text)


def _row(folder: Path, member: Member, images: int) -> int:
    """The row number of an image that is called "s0000017". images: the number of images of the split."""
    if not re.fullmatch("s[0-9]{7}", member.key):
        raise _fault(folder / member.shard, member.key, "it must be called s and the seven digits of its row")
    row = int(member.key[1:])
    if row >= images:
        raise _fault(folder / member.shard, member.key, f"its row must be below {images}, the number of images")
    return row


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < LABEL_BYTES


def _fault(shard: Path, name: str, fault: str) -> StudyError:
    return StudyError(f"{shard}: {printable(name)}: {printable(fault)}: fetch the shard anew")
