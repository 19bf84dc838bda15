"""One split of one data set: what every set gives, however it came about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from zsr import storage
from zsr.errors import ParamError


@dataclass(frozen=True)
class Split:
    """N labelled images of C classes.

    images: (N, H, W, 3) uint8. labels: (N,) int64 in [0, C). ids: (N,) int64, each image's own number in its
    set, whatever part of the set was chosen. nouns: the class names as a prompt says them, "a star".
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    classnames: tuple[str, ...]
    nouns: tuple[str, ...]

    def __post_init__(self):
        assert len(self.images) == len(self.labels) == len(self.ids) == len(set(self.ids.tolist()))
        assert len(self.classnames) == len(self.nouns) > self.labels.max() >= self.labels.min() >= 0

    def prompts(self, template: str) -> list[str]:
        return [template.format(noun) for noun in self.nouns]

    def tensors(self, rows: Sequence[int]):
        """Images (B, 3, H, W) fp32 in [0, 1], labels (B,) and ids of some rows, for torch."""
        import torch

        rows = list(rows)
        images = torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2).contiguous().float() / 255
        return images, torch.from_numpy(self.labels[rows]), self.ids[rows].tolist()

    def first(self, n: int) -> "Split":
        """The first n images, or all there are."""
        return replace(self, images=self.images[:n], labels=self.labels[:n], ids=self.ids[:n])

    def save(self, path: Path) -> None:
        arrays = {"images": self.images, "labels": self.labels, "ids": self.ids}
        storage.save_arrays(path, arrays, {"classnames": self.classnames, "nouns": self.nouns})

    @classmethod
    def load(cls, path: Path) -> "Split":
        arrays, facts = storage.load_arrays(path)
        return cls(**arrays, classnames=tuple(facts["classnames"]), nouns=tuple(facts["nouns"]))


def make(set_name: str, split: str, n: int, seed: int, image_size: int) -> Split:
    """The first n images of a set's "train" or "test" split, by the module of its name in `zsr.data.sets`.

    Raises ParamError where the set has fewer.
    """
    module = import_module(f"zsr.data.sets.{set_name}")
    check_sizes(module, {split: n})
    return module.make(split, n, seed, image_size)


def check_sizes(module: ModuleType, wanted: Mapping[str, int]) -> None:
    """Refuse more images than a set has; its module says so in SIZES, a drawn set has as many as one likes."""
    for split, n in wanted.items():
        most = getattr(module, "SIZES", {}).get(split)
        if most is not None and n > most:
            name = module.__name__.rpartition(".")[2]
            raise ParamError(f"data.sets.{name}.{split} must be at most {most}, got {n}")
