"""A set by its name: drawn, scanned, or read from the files of a public one."""

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
from zsr.data.registry import entries, entry
from zsr.data.samples import Samples, checked, chosen, number
from zsr.data.split import Split
from zsr.data.transforms import to_pixels
from zsr.errors import ParamError, StudyError

DECODERS = 8  # threads; decoding releases Python's lock


@dataclass(frozen=True)
class Files:
    """How the files of public sets are read.

    Attributes:
        root: the folder that `python -m stages.fetch` fills.
        native: are small images left at their own size?
        prompt_set: of `zsr.data.prompts.PROMPT_SETS`.
        complete: must every image of the set be there?
    """

    root: Path
    native: bool = False
    prompt_set: str = "official"
    complete: bool = True


@dataclass(frozen=True)
class Decoded:
    """Images of N samples, (N, H, W, 3) uint8, decoded as they are gone through: they may not fit into memory.

    Attributes:
        samples: whose images they are.
        rows: (N,) their numbers among the samples.
        group: "small" images are stretched to a square, "natural" ones resized and cropped.
        side: of the square that images are brought to, in pixels.
        native: are small images left at their own size?
    """

    samples: Samples
    rows: tuple[int, ...]
    group: Literal["small", "natural"]
    side: int
    native: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, 3), as the first image has it."""
        return (len(self.rows), *self._decode(self.rows[0]).shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        rows = iter(self.rows)
        with ThreadPoolExecutor(DECODERS) as pool:
            waiting = [pool.submit(self._decode, row) for row in islice(rows, 4 * DECODERS)]
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(self._decode, row) for row in islice(rows, 1)]

    def _decode(self, row: int) -> np.ndarray:
        return to_pixels(self.samples.load(row), self.group, self.side, self.native)


def make(set_name: str, split: str, n: int, seed: int, image_size: int, files: Files | None = None) -> Split:
    """n images of a set's "train" or "test" split, by the module of its name in `zsr.data.sets`.

    A module that has `make` draws them from the seed; one that has `read` parses files, of which the first n in an
    order keyed by the seed are taken, so fewer are among more. Raises ParamError where the set has fewer; StudyError
    where files are missing or are not what they should be.
    """
    module = import_module(f"zsr.data.sets.{set_name}")
    check_sizes(module, {split: n})
    if hasattr(module, "make"):
        return module.make(split, n, seed, image_size)
    assert files is not None, "a public set is read from files"
    samples = checked(module.read(files.root, split), set_name, split, complete=files.complete)
    rows = chosen(samples.ids, set_name, n, seed)
    if len(rows) < n:
        raise StudyError(f"data.sets.{set_name}.{split} is {n}, but {len(rows)} images are there")
    classes = prompts.join(set_name, samples.raw_keys, files.complete)
    decoded = Decoded(samples, tuple(rows), entry(set_name).transform_group, image_size, files.native)
    return Split(
        decoded,  # type: ignore[arg-type]  # has what `Split.save` asks of an array, and need not fit into memory
        samples.labels[rows],
        np.array([number(samples.ids[row], set_name) for row in rows]),
        tuple(of.raw_key for of in classes),
        tuple(of.name_clean if files.prompt_set == "clean" else of.name_official for of in classes),
        prompts.prompts(set_name, samples.raw_keys, files.prompt_set),
    )


def absent(names: Iterable[str], root: Path) -> list[str]:
    """Those of some sets whose files are not below root, in no form; of public sets alone."""
    public = [name for name in names if name in entries()]
    forms = {name: [entry(name).layout_root, *(source.folder for source in entry(name).sources)] for name in public}
    return [name for name in public if not any(form and (root / form).exists() for form in forms[name])]


def check_sizes(module: ModuleType, wanted: Mapping[str, int]) -> None:
    """Refuse more images than a set has: of public ones the registry knows, of a scanned one its module's SIZES."""
    name = module.__name__.rpartition(".")[2]
    public = hasattr(module, "read")
    sizes = entry(name).splits if public else getattr(module, "SIZES", {})
    for split, n in wanted.items():
        most = sizes.get(split, 0 if public else n)
        if n > most:
            raise ParamError(f"data.sets.{name}.{split} must be at most {most}, got {n}")
