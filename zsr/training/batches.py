"""The samples of each step, and the parts of a step that one process computes one after another."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from zsr.compute import rank, world_size
from zsr.files import mix

Fold = Literal["mean", "sum", "whole"]  # mean, sum: over the part's samples; whole: a part gives the value of the batch


def batch_indices(step: int, n_samples: int, batch_size: int, seed: int) -> Tensor:
    """The samples of a step. Each epoch passes once over all samples, in an order fixed by (seed, epoch)."""
    epoch, position = divmod(step, math.ceil(n_samples / batch_size))
    return _order(n_samples, seed, epoch)[position * batch_size : (position + 1) * batch_size]


@lru_cache(maxsize=2)
def _order(n_samples: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n_samples, generator=torch.Generator().manual_seed(mix(seed, epoch)))


@dataclass(frozen=True)
class Part:
    """The samples of a step that one process computes at a time. An empty part gets one sample that does not count.

    Attributes:
        samples: row numbers of the samples in the source set, (n,).
        places: places of the samples in the batch, (n,).
        batch: row numbers of all samples of the step, (B,).
        counts: number of samples in the part of every process at this time.
    """

    samples: Tensor
    places: Tensor
    batch: Tensor
    counts: list[int]

    def weight(self, fold: Fold) -> float:
        """Weight of a term in this process's loss: the mean gradient over processes is then the batch's gradient."""
        n = self.counts[rank()]
        return {"mean": world_size() * n / len(self.batch), "sum": world_size() * bool(n), "whole": 1.0}[fold]


def parts_of(batch: Tensor, accumulate: int) -> list[Part]:
    """The parts of a batch for this process. The parts of all processes hold every place once, in order."""
    shares = [share.tensor_split(accumulate) for share in torch.arange(len(batch)).tensor_split(world_size())]
    parts = []
    for i, places in enumerate(shares[rank()]):
        counts = [len(share[i]) for share in shares]
        places = places if len(places) else places.new_zeros(1)
        parts.append(Part(batch[places], places, batch, counts))
    return parts
