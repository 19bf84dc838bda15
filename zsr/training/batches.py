"""Which samples a step sees, and which of them a process computes at a time."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from zsr.distributed import rank, world_size
from zsr.noise import mix

Fold = Literal["mean", "sum", "whole"]  # mean or sum over a part's samples; whole: every part gives the batch's value


def batch_indices(step: int, n_samples: int, batch_size: int, seed: int) -> Tensor:
    """The samples of a step: each epoch passes once over all of them, in an order fixed by (seed, epoch)."""
    epoch, position = divmod(step, math.ceil(n_samples / batch_size))
    return _order(n_samples, seed, epoch)[position * batch_size : (position + 1) * batch_size]


@lru_cache(maxsize=2)
def _order(n_samples: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n_samples, generator=torch.Generator().manual_seed(mix(seed, epoch)))


@dataclass(frozen=True)
class Part:
    """What one process computes at a time of a step. A part of no sample is filled up with one that does not count.

    Attributes:
        samples: numbers of images in the source set, (n,).
        places: of the samples in the batch, (n,).
        batch: the samples of the whole step, (B,).
        counts: of every process, how many samples it computes at this time.
    """

    samples: Tensor
    places: Tensor
    batch: Tensor
    counts: list[int]

    def weight(self, fold: Fold) -> float:
        """Of a term in this process's loss, so that the mean of gradients over processes is that of the batch."""
        n = self.counts[rank()]
        return {"mean": world_size() * n / len(self.batch), "sum": world_size() * bool(n), "whole": 1.0}[fold]


def parts_of(batch: Tensor, accumulate: int) -> list[Part]:
    """A batch in parts for this process: all processes' parts together hold every place once, in order."""
    shares = [share.tensor_split(accumulate) for share in torch.arange(len(batch)).tensor_split(world_size())]
    parts = []
    for i, places in enumerate(shares[rank()]):
        counts = [len(share[i]) for share in shares]
        places = places if len(places) else places.new_zeros(1)
        parts.append(Part(batch[places], places, batch, counts))
    return parts
