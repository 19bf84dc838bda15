"""One split of one data set: what every set gives, however it came about."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zsr import files

if TYPE_CHECKING:
    import torch

NAMES = ("classnames", "nouns", "own_prompts")


@dataclass(frozen=True)
class Split:
    """N labelled images of C classes.

    Attributes:
        images: (N, H, W, 3) uint8.
        labels: (N,) int64 in [0, C).
        ids: (N,) int64, each image's own number in its set, whatever part of the set was chosen.
        classnames: (C,) names of the classes.
        nouns: (C,) the class names as a prompt says them, "a star".
        own_prompts: (C,) the whole prompts of a set that has its own; () where the study's template makes them.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    classnames: tuple[str, ...]
    nouns: tuple[str, ...]
    own_prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.labels) == len(self.ids) == len(set(self.ids.tolist()))
        assert len(self.classnames) == len(self.nouns)
        assert not len(self.labels) or len(self.nouns) > self.labels.max() >= self.labels.min() >= 0
        assert len(self.own_prompts) in (0, len(self.nouns))

    def prompts(self, template: str) -> list[str]:
        """One prompt a class, the noun in the place of {} in a template."""
        return [template.format(noun) for noun in self.nouns]

    def tensors(
        self, rows: Sequence[int], device: "torch.device | str" = "cpu"
    ) -> tuple["torch.Tensor", "torch.Tensor", list[int]]:
        """Images (B, 3, H, W) fp32 in [0, 1], labels (B,) and ids of some rows, for torch."""
        import torch

        rows = list(rows)
        images = torch.from_numpy(self.images[rows]).to(device).permute(0, 3, 1, 2).contiguous().float() / 255
        return images, torch.from_numpy(self.labels[rows]).to(device), self.ids[rows].tolist()

    def first(self, n: int) -> "Split":
        """The first n images, or all there are."""
        return self.part(slice(n))

    def part(self, rows: slice) -> "Split":
        """The images of a slice; the classes stay."""
        return replace(self, images=self.images[rows], labels=self.labels[rows], ids=self.ids[rows])

    def save(self, path: Path) -> None:
        """Writes the file that `load` reads; equal splits give equal bytes. It is filled image by image."""
        names = {name: list(getattr(self, name)) for name in NAMES}
        facts, total = names | {"digest": "0" * 64}, hashlib.sha256()
        small = {"labels": np.asarray(self.labels), "ids": np.asarray(self.ids)}
        with files.growing_images(path, self.images.shape, small, facts) as images:
            for i, image in enumerate(self.images):
                images[i] = image
                total.update(image.tobytes())
            for array in small.values():
                total.update(array.tobytes())
            facts["digest"] = total.hexdigest()

    @classmethod
    def load(cls, path: Path) -> "Split":
        """A split whose images are read from the file as they are needed."""
        arrays, facts = files.map_arrays(path)
        names: dict[str, Any] = {name: tuple(facts[name]) for name in NAMES}
        return cls(**arrays, **names)


def digest(path: Path) -> str:
    """Names the images, labels and ids of a file that `Split.save` wrote."""
    return files.load_facts(path)["digest"]
