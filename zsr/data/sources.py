"""A set by its name: a drawn set, a set of scans, or a public set that is read from files."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np

from zsr.data import prompts
from zsr.data.outside import printable
from zsr.data.prepared import Resized, Split, to_pixels
from zsr.data.registry import entries, entry
from zsr.data.samples import Samples, check_published, checked, chosen, number
from zsr.params import ParamError, StudyError

DECODERS = 8  # threads; decoding releases Python's lock
MOST_DRAWN = 1_000_000  # images of a drawn split, which is held in memory


@dataclass(frozen=True)
class Files:
    """How the files of public sets are read.

    Attributes:
        root: the folder that `zsr fetch` fills.
        native: do small images keep the size they have on disk?
        prompt_set: one of `zsr.data.prompts.PROMPT_SETS`.
        complete: must every image of the set be there?
    """

    root: Path
    native: bool = False
    prompt_set: str = "official"
    complete: bool = True


@dataclass(frozen=True)
class Decoded:
    """Images of N samples, (N, H, W, 3) uint8, decoded one by one during iteration: all may not fit into memory.

    Attributes:
        samples: the samples of the whole split.
        rows: (N,) row numbers of the images among the samples.
        group: "small" images are stretched to a square, "natural" images are resized and cropped.
        side: side of the square that images are brought to, in pixels.
        on_disk: side of the square images of the set on disk, which are left as they are; 0: images are brought to
            `side`.
    """

    samples: Samples
    rows: tuple[int, ...]
    group: Literal["small", "natural"]
    side: int
    on_disk: int = 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, 3)."""
        return (len(self.rows), *2 * (self.on_disk or self.side,), 3)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        rows = iter(self.rows)
        with ThreadPoolExecutor(DECODERS) as pool:
            waiting = [pool.submit(self._decode, row) for row in islice(rows, 4 * DECODERS)]
            for _ in self.rows:
                yield waiting.pop(0).result()
                waiting += [pool.submit(self._decode, row) for row in islice(rows, 1)]

    def _decode(self, row: int) -> np.ndarray:
        image = self.samples.load(row)
        try:
            pixels = to_pixels(image, "small" if self.on_disk else self.group, self.side, native=bool(self.on_disk))
        except Exception as error:  # of the image library
            reason = printable(str(error) or type(error).__name__)
            raise StudyError(f"{printable(self.samples.place(row))} cannot be resized ({reason}): remove it") from None
        if pixels.shape != self.shape[1:]:
            height, width = pixels.shape[:2]
            said = f"{printable(self.samples.place(row))} has {height} x {width} pixels"
            raise StudyError(f"{said} where each image has {self.on_disk} x {self.on_disk}: fetch the set anew")
        return pixels


def make(set_name: str, split: str, n: int, seed: int, image_size: int, files: Files | None = None) -> Split:
    """n images of a set's "train" or "test" split, from the module zsr.data.sets.<set_name>.

    A module with `make` draws the images from the seed. A module with `read` parses files; the first n images in an
    order keyed by the seed are taken, so a smaller choice is part of a larger one. Raises ParamError where the set has
    fewer images; StudyError where files are missing or invalid.
    """
    module = import_module(f"zsr.data.sets.{set_name}")
    check_sizes(module, {split: n})
    if hasattr(module, "make"):
        return module.make(split, n, seed, image_size)
    assert files is not None, "a public set is read from files"
    check_published(set_name, Path(files.root), split, complete=files.complete)
    samples = checked(module.read(files.root, split), set_name, split, complete=files.complete)
    rows = chosen(samples.ids, set_name, n, seed)
    if len(rows) < n:
        raise StudyError(f"data.sets.{set_name}.{split} is {n}, but {len(rows)} images are there")
    classes = prompts.join(set_name, samples.raw_keys, files.complete)
    group, on_disk = entry(set_name).transform_group, entry(set_name).side
    decoded = Decoded(samples, tuple(rows), group, image_size, on_disk)
    resized = on_disk and not (files.native and group == "small")
    return Split(
        Resized(decoded, group, image_size) if resized else decoded,  # type: ignore[arg-type]  # has all that `Split.save` needs of an array, and need not fit into memory
        samples.labels[rows],
        np.array([number(samples.ids[row], set_name) for row in rows]),
        tuple(class_row.raw_key for class_row in classes),
        tuple(
            class_row.name_clean if files.prompt_set == "clean" else class_row.name_official for class_row in classes
        ),
        prompts.prompts(set_name, samples.raw_keys, files.prompt_set),
        samples.backend,
    )


def absent(names: Iterable[str], root: Path) -> list[str]:
    """The public sets among `names` that have no files below root, in any form."""
    public = [name for name in names if name in entries()]
    forms = {name: [entry(name).layout_root, *(source.folder for source in entry(name).sources)] for name in public}
    return [name for name in public if not any(form and (root / form).exists() for form in forms[name])]


def check_sizes(module: ModuleType, counts: Mapping[str, int]) -> None:
    """Refuse more images than a set has, by the registry for a public set, by SIZES of its module for a scanned set.

    A drawn set has no end, and is held in memory: MOST_DRAWN.
    """
    name = module.__name__.rpartition(".")[2]
    public = hasattr(module, "read")
    sizes = entry(name).splits if public else getattr(module, "SIZES", {})
    for split, n in counts.items():
        most = sizes.get(split, 0 if public else MOST_DRAWN)
        if n > most:
            raise ParamError(f"data.sets.{name}.{split} must be at most {most}, got {n}")
