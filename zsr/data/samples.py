"""One split of a public set as it lies on disk: ids, labels and class keys, and images that are opened on demand."""

import errno
import hashlib
import os
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import IO, Literal

import numpy as np
from PIL import Image

from zsr import files
from zsr.data import prompts
from zsr.data.outside import class_folders, printable, visible_files, words
from zsr.data.prepared import MOST_PIXELS
from zsr.data.registry import Entry, entry
from zsr.params import ParamError, StudyError, require_plain

COMMAND = "python -m zsr fetch"
SPENT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of the machine, whatever the file holds
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # those of torchvision
EIGHT_BITS = (
    "1",
    "L",
    "LA",
    "P",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "PA",
    "CMYK",
    "YCbCr",
    "LAB",
)  # modes; RGB holds their values
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")  # Pillow has others that run programs
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type of a PNG -> numbers of a pixel
PASSES = (  # of an interlaced PNG: first column, first row, columns and rows between pixels
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
MANY_PIXELS = 2**24  # of images above this size, which take much memory, one is decoded at a time
MANY = Lock()
MOST_BLACK = 0.01  # share of images of one file that may be black
SMALL_FILE = 2**20  # bytes; larger files of a set are archives

warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Samples:
    """N images of C classes.

    Attributes:
        ids: (N,) row numbers of torchvision's order, where a folder and the shards of a set both have this order; else
            relative paths, or shard and key. Ids are the same on every machine, and unique.
        labels: (N,) int64 in [0, C).
        raw_keys: (C,) class keys exactly as on disk, in the order of the labels.
        load: returns the image of a number, in RGB. It can be pickled, and several threads may call it.
        backend: the form in which the set lies on disk.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    raw_keys: tuple[str, ...]
    load: Callable[[int], Image.Image]
    backend: Literal["torchvision", "shards"] = "torchvision"

    def place(self, row: int) -> str:
        """Where an image lies, for messages: the path in the set's folder where each image is a file, else the id."""
        return self.load.names[row] if isinstance(self.load, ImageFiles) else self.ids[row]


@dataclass(frozen=True)
class ImageFiles:
    """Opens the image files of a folder by number.

    Attributes:
        folder: the folder.
        names: (N,) paths of the images in the folder.
    """

    folder: Path
    names: tuple[str, ...]

    def __call__(self, row: int) -> Image.Image:
        """The image of a number. Raises StudyError where its file is missing or damaged."""
        return decoded(self.folder / self.names[row], self.folder / self.names[row])


@dataclass(frozen=True)
class ImageArray:
    """Images that are in memory already.

    Attributes:
        pixels: (N, H, W, 3) uint8.
    """

    pixels: np.ndarray

    def __call__(self, row: int) -> Image.Image:
        """The image of a number."""
        return Image.fromarray(self.pixels[row])


def decoded(file: Path | IO[bytes], name: object) -> Image.Image:
    """The image in a file, with all its pixels, in RGB: the one place where images of files are decoded.

    An image of more than MOST_PIXELS is refused from its header. Raises StudyError with `name` for anything that the
    parser raises.
    """
    if isinstance(file, Path):
        require_plain(file)
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.format == "PNG" and not _has_whole_header(image):
                raise ValueError("a header of PNG has 13 bytes")
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise _too_large(name, f"{width} x {height} pixels")
            if image.mode not in EIGHT_BITS:
                raise _too_deep(name, image.mode)
            if image.format == "PNG":
                _check_sums(image)
                _check_rows(image)
            if image.format in ("JPEG", "MPO"):
                _check_end(image)
            with MANY if width * height > MANY_PIXELS else nullcontext():
                return image.convert("RGB")
    except StudyError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _too_large(name, str(error)) from None
    except Exception as error:  # a parser of ten formats, which raises exceptions of many types
        if getattr(error, "errno", None) in SPENT:
            raise  # the file may be whole
        reason = getattr(error, "strerror", None) or "it is damaged or no image"
        raise StudyError(
            f"{printable(name)} cannot be read ({reason}): put the file back, or fetch the set anew"
        ) from None


def _has_whole_header(image: Image.Image) -> bool:
    """Does the first chunk of a PNG have its 13 bytes? Pillow takes fewer, and guesses the rest."""
    stream = image.fp  # type: ignore[attr-defined]
    place = stream.tell()
    stream.seek(0)
    start = stream.read(16)
    stream.seek(place)
    return start[8:] == b"\0\0\0\rIHDR"


def _check_sums(image: Image.Image) -> None:
    """Raise what Pillow raises where a part of a PNG has another checksum than it states.

    Pillow compares the checksums of pixels only when it is asked to, and then the image is of no use. So it is opened
    a second time.
    """
    stream = image.fp  # type: ignore[attr-defined]
    place = stream.tell()
    stream.seek(0)
    Image.open(stream, formats=["PNG"]).verify()
    stream.seek(place)


def _check_end(image: Image.Image) -> None:
    """Raise ValueError where a JPEG ends in zeros, and has no mark of its end: the rest of it was never written."""
    stream = image.fp  # type: ignore[attr-defined]
    place = stream.tell()
    content = stream.read()
    stream.seek(place)
    if content.endswith(bytes(16)) and b"\xff\xd9" not in content:
        raise ValueError("zeros in the place of its end")


def _check_rows(image: Image.Image) -> None:
    """Raise ValueError where a PNG has fewer rows than its header says. Pillow makes the rows that lack black."""
    stream, place = image.fp, image.fp.tell()  # type: ignore[attr-defined]
    stream.seek(8)
    unpacked, lacking = zlib.decompressobj(), 0
    while header := stream.read(8):
        size, kind = int.from_bytes(header[:4], "big"), header[4:]
        content = stream.read(size + 4)[:size]
        if kind == b"IHDR":
            lacking = _bytes_of_pixels(
                *image.size, bits=content[8] * CHANNELS[content[9]], interlaced=bool(content[12])
            )
        while kind == b"IDAT" and content and lacking > 0:
            lacking -= len(unpacked.decompress(content, 2**20))
            content = unpacked.unconsumed_tail
    stream.seek(place)
    if lacking > 0:
        raise ValueError(f"{lacking} bytes of pixels are missing")


def _bytes_of_pixels(width: int, height: int, bits: int, interlaced: bool) -> int:
    """The bytes that the pixels of a PNG unpack to: a byte for the filter of each row, and the row in whole bytes."""
    total = 0
    for x, y, right, down in PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // right), -(-(height - y) // down)
        total += rows * (1 + (columns * bits + 7) // 8) if columns > 0 and rows > 0 else 0
    return total


def _too_deep(name: object, mode: str) -> StudyError:
    """The error for an image whose numbers have more than 8 bits. In RGB they would all be 255, or all be 0."""
    return StudyError(
        f"{printable(name)} has numbers of more than 8 bits (mode {mode}): save it with 8 bits, or remove it"
    )


def _too_large(name: object, size: str) -> StudyError:
    said = f"{printable(name)} is too large ({printable(size)}; at most {MOST_PIXELS:,} are decoded)"
    return StudyError(f"{said}: scale it down, or remove it")


def of_files(
    folder: Path, paths: Sequence[str | Path], labels: Sequence[int] | np.ndarray, raw_keys: Sequence[str]
) -> Samples:
    """Samples of image files below a folder. The id of an image is its path in the folder.

    Raises StudyError where a path leads out of the folder, or up and down again: lists of files come from outside.
    """
    names = tuple(_inside(folder, Path(path)) for path in paths)
    return Samples(names, whole(labels), tuple(raw_keys), ImageFiles(folder, names))


def _inside(folder: Path, path: Path) -> str:
    if not path.is_relative_to(folder) or ".." in path.relative_to(folder).parts:
        raise StudyError(f"{printable(path)} is listed as an image, and does not lie in {folder}: fetch the set anew")
    return path.relative_to(folder).as_posix()


def whole(labels: Sequence[int] | np.ndarray) -> np.ndarray:
    """The labels as (N,) int64. Raises ValueError for other than whole numbers, which would be cut in silence."""
    found = np.asarray(labels)
    if found.ndim != 1 or found.dtype.kind not in "iuf" or not np.array_equal(found, np.round(found)):
        raise ValueError("the labels are no whole numbers")
    return found.astype(np.int64)


def of_numbers(samples: Samples, name: str) -> Samples:
    """The samples of a set whose files name a class by its number alone.

    Raises StudyError where the classes are not the first ones of the set, in their order: with a name less, all later
    numbers would mean other classes.
    """
    known = [row.raw_key for row in prompts.rows(name)]
    for number, (key, right) in enumerate(zip(samples.raw_keys, [*known, *[""] * len(samples.raw_keys)])):
        if key != right:
            said = f"class {number} is '{printable(key)}', must be '{right}'"
            raise StudyError(f"{name}: {said}: the list of classes is damaged or out of order: fetch the set anew")
    return samples


def numbered(samples: Samples, split: str) -> Samples:
    """The samples with their row numbers as ids, for a set whose samples are in torchvision's order.

    The shards of such a set have the same row numbers.
    """
    return replace(samples, ids=row_ids(range(len(samples.ids)), split))


def row_ids(rows: Iterable[int], split: str) -> tuple[str, ...]:
    """The ids of images that are known by their row numbers in a split."""
    return tuple(f"{split}/{row}" for row in rows)


def of_array(pixels: np.ndarray, labels: Sequence[int] | np.ndarray, raw_keys: Sequence[str], split: str) -> Samples:
    """Samples of an array (N, H, W, 3) of one big file. The id of an image is the split and its row in the array.

    Raises ValueError where more than one image in a hundred is black: a file system leaves zeros in the place of what
    was never written.
    """
    black = len(pixels) - int(pixels.any(axis=(1, 2, 3)).sum())
    if black > MOST_BLACK * len(pixels):
        raise ValueError(f"{black} of {len(pixels)} images are black")
    return Samples(row_ids(range(len(pixels)), split), whole(labels), tuple(raw_keys), ImageArray(pixels))


def of_class_folders(root: Path, parent: str, without: Sequence[str] = (), deep: bool = True) -> Samples:
    """Samples of class folders: every folder in root/parent is a class, and holds images. All is sorted by name.

    without: names of folders that are no classes. deep: are images in folders of a class's folder taken, too?
    """
    classes = [path for path in class_folders(root / parent) if path.name not in without]
    labelled_paths = [
        (path, label)
        for label, folder in enumerate(classes)
        for path in visible_files(folder, ENDINGS if deep else (".jpg",))
        if deep or path.parent == folder
    ]
    if not labelled_paths:
        raise ValueError(f"{parent} holds no folder with images")
    require_in_place([(path, classes[label].name) for path, label in labelled_paths], [path.name for path in classes])
    return of_files(
        root,
        [path for path, _ in labelled_paths],
        [label for _, label in labelled_paths],
        [folder.name for folder in classes],
    )


def require_in_place(keyed_paths: Sequence[tuple[Path, str]], keys: Sequence[str]) -> None:
    """Raise StudyError where an image has the name of one of another class, as "River_1.jpg" among those of Forest.

    keyed_paths: each image with the key of its class. Some sets begin names with the key, or with its number.
    """
    key_of = {mark: key for key in keys for mark in (key, key.partition(".")[0])}
    for path, key in keyed_paths:
        named = key_of.get(path.name.rpartition("_")[0], key)
        if named != key:
            said = f"{printable(path)} lies among the images of '{key}', and has the name of one of '{named}'"
            raise StudyError(f"{said}: put it back, or fetch the set anew")


def require_apart(
    path: Path, images: Iterable[str], others: Iterable[Path], listed: Callable[[Path], Iterable[str]]
) -> None:
    """Raise StudyError where the list of another split has an image of this list: one stands in the other's place.

    others: the lists of other splits, of which any may be missing. listed: reads the images of such a list.
    """
    for other in others:
        if other.exists() and not set(images).isdisjoint(listed(other)):
            raise StudyError(f"{printable(path)} and {printable(other)} list the same images: fetch the set anew")


def known_split(name: str, split: str) -> None:
    """Raises ParamError where the set does not have the split."""
    if split not in entry(name).splits:
        raise ParamError(f"{name} has no split '{split}' (it has: {', '.join(entry(name).splits)})")


def require_plain_files(folder: Path) -> None:
    """Raise StudyError where a pipe or a device lies below a folder: the parser of a library would wait for ever."""
    folders = [str(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif not entry.is_file():
                    require_plain(Path(entry.path))


@contextmanager
def parsing(name: str, path: Path, layout: str) -> Iterator[None]:
    """Turns any exception of a parser into one StudyError line: the files do not have the expected layout."""
    try:
        yield
    except StudyError:
        raise
    except Exception as error:  # the libraries of ten formats raise exceptions of many types
        kind, said = type(error).__name__, words(error)
        reason = kind if said == kind else f"{kind}: {said}"
        way = f"expected is {layout}; move it away and run `{COMMAND} {name}`"
        raise StudyError(f"{name}: {printable(path)} is not laid out as it should be ({reason}): {way}") from None


def missing(name: str, looked: Sequence[Path], split: str = "test") -> StudyError:
    """The error for a set that is not on disk: it names the paths that were looked for and the command that gets it."""
    option = "" if split == "test" else f" --split {split}"
    places = " or ".join(map(printable, looked))
    way = f"get it with `{COMMAND} {name}{option}` at the repository's root, or set DATA_ROOT to where it lies"
    return StudyError(f"{name} ({split}) is not here: there is no {places}; {way}")


def checked(samples: Samples, name: str, split: str, *, complete: bool = True) -> Samples:
    """The samples, after a check that they can be those of the set.

    complete: all images and classes of the set must be there. Raises StudyError with the actual and the expected
    numbers.
    """
    dataset, n, classes = entry(name), len(samples.ids), len(samples.raw_keys)
    known_split(name, split)
    if not n == len(samples.labels) or not n:
        raise StudyError(f"{dataset.key} ({split}) has {n} images and {len(samples.labels)} labels: fetch it anew")
    if classes == 1:
        raise StudyError(
            f"{dataset.key} ({split}) has one class, '{samples.raw_keys[0]}', not {dataset.num_classes}: its folders "
            "are no classes, and every label would be 0"
        )
    paths = samples.load.names if isinstance(samples.load, ImageFiles) else ()
    twice = [name for names in (samples.ids, paths) for name, times in Counter(names).items() if times > 1]
    if twice:
        raise StudyError(f"{dataset.key} ({split}) has {len(twice)} images twice, as {twice[0]}: remove one of each")
    low, high = samples.labels.min(), samples.labels.max()
    if low < 0 or high >= classes:
        raise StudyError(
            f"{dataset.key} ({split}) has {classes} classes, but labels from {low} to {high}: fetch it anew"
        )
    if complete:
        _check_complete(samples, name, split)
    return samples


def check_published(name: str, root: Path, split: str, *, complete: bool = True) -> None:
    """Compare the files of a split with the hashes that the registry knows, before any file is parsed.

    complete: as of `checked`; else another file is said on stderr, and taken. Raises StudyError for another file. A set
    that lies there in another form is not compared.
    """
    dataset = entry(name)
    for path, md5 in _published(dataset, root, split).items():
        found = files.md5(path)
        if found != md5:
            line = f"{printable(path)} is not the published file of {dataset.key}: its md5 is {found}, not {md5}"
            if complete:
                raise StudyError(f"{line}; move it away and run `{COMMAND} {dataset.key}`")
            files.say(f"Warning: {line}")


def _published(dataset: Entry, root: Path, split: str) -> dict[Path, str]:
    """The files of a split that lie there as they were published, with their hashes."""
    listed = next((listed for of, listed in dataset.md5_of.items() if of == split), {})
    known = {root / dataset.layout_root / file: md5 for file, md5 in listed.items()}
    known = known if all(path.is_file() for path in known) else {}
    serving = [source for source in dataset.sources if split in source.splits]
    plain = [file for source in serving for file in source.files if file.unpack == "none" and file.size < SMALL_FILE]
    alone = {root / file.into / file.name: file.md5 for file in plain if file.md5}
    return known | {path: md5 for path, md5 in alone.items() if path.is_file()}


def _check_complete(samples: Samples, name: str, split: str) -> None:
    dataset = entry(name)
    anew = f"move it away and run `{COMMAND} {dataset.key}`"
    for kind, count, expected in [
        ("classes", len(samples.raw_keys), dataset.num_classes),
        ("images", len(samples.ids), dataset.splits[split]),
    ]:
        if count != expected:
            raise StudyError(f"{dataset.key} ({split}) has {count} {kind}, must have {expected}: {anew}")
    empty = set(range(dataset.num_classes)) - set(samples.labels.tolist())
    if empty:
        first = samples.raw_keys[min(empty)]
        raise StudyError(
            f"{dataset.key} ({split}) has no image of {len(empty)} classes, the first is '{first}': {anew}"
        )


def chosen(ids: Sequence[str], set_name: str, n: int, seed: int) -> list[int]:
    """The row numbers of n images, or of all images where there are fewer, in the order of a hash of seed, set and id.

    The choice does not depend on the order of the ids. A smaller choice is the beginning of a larger one. The choices
    of two seeds share no more images than chance would have it.
    """

    def place(row: int) -> bytes:
        return _hash(f"{seed}|{set_name}|{ids[row]}", 16)

    return sorted(range(len(ids)), key=place)[:n]


def number(sample_id: str, set_name: str) -> int:
    """The number of an image in [0, 2^63), by which records and noise identify the image."""
    return int.from_bytes(_hash(f"{set_name}|{sample_id}", 8), "big") >> 1


def _hash(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=size).digest()
