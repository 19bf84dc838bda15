"""Random numbers that belong to an image: they do not depend on batch size, order and number of machines."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zsr import files


def mix(*numbers: int) -> int:
    """One seed of 60 bits from several numbers."""
    return int(files.digest(repr(numbers))[:15], 16)


@dataclass(frozen=True)
class Noise:
    """Draws for the images of one batch, keyed by (seed, scope, image id, stream).

    Attributes:
        seed: the seed of all draws.
        scope: the name of a set or of a step.
        ids: the numbers of the images in the set, (B,).
    """

    seed: int
    scope: str
    ids: Sequence[int]

    def uniform(self, shape: Sequence[int], stream: str) -> Tensor:
        """Uniform on [-1, 1), (B, *shape), from the CPU generator, which gives the same values on every machine."""
        return torch.stack([2 * torch.rand(tuple(shape), generator=self._generator(i, stream)) - 1 for i in self.ids])

    def normal(self, shape: Sequence[int], stream: str) -> Tensor:
        """Standard normal, (B, *shape)."""
        return torch.stack([torch.randn(tuple(shape), generator=self._generator(i, stream)) for i in self.ids])

    def take(self, rows: Tensor) -> "Noise":
        """The noise of some images of the batch. The draws of an image do not depend on the other images."""
        return replace(self, ids=[self.ids[row] for row in rows.tolist()])

    def _generator(self, image_id: int, stream: str) -> torch.Generator:
        key = files.digest(f"{self.seed}/{self.scope}/{int(image_id)}/{stream}")
        return torch.Generator().manual_seed(int(key[:8], 16))


@dataclass(frozen=True)
class Drawn:
    """Uniform noise of one stream that was drawn in advance.

    Attributes:
        rows: the noise of each image, (B, ...).
    """

    rows: Tensor

    def take(self, rows: Tensor) -> "Drawn":
        """The noise of some images of the batch."""
        return Drawn(self.rows[rows])

    def uniform(self, shape: Sequence[int], stream: str) -> Tensor:
        """The noise that was drawn, (B, *shape). The noise must have been drawn in that shape."""
        assert self.rows.shape[1:] == tuple(shape)
        return self.rows
