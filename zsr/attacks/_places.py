"""A batch of fixed shape through which many images pass: a place that one leaves is taken by the next."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zsr.attacks._rows import State, put, shrunk


@dataclass
class _Places:
    state: object
    live: Tensor  # (R,) is the image in the place still under way?


def through(
    n: int, size: int | None, device: torch.device, begin: Callable[[Tensor], State], step: Callable[[State], Tensor]
) -> None:
    """Take images 0 ... n - 1 through `size` places; None: one place for each.

    begin: images (K,) -> their state. step: changes a state by one pass of the model, and says whose image is done,
    (R,); it is also given images that are done. The shape of the batch stays while images wait; then it shrinks.
    """
    rows = torch.arange(n, device=device)
    waiting = min(size or n, n)
    places = _Places(begin(rows[:waiting]), torch.ones(waiting, dtype=torch.bool, device=device))
    while places.live.any():
        places.live = places.live & ~step(places.state)
        free = (~places.live).nonzero().squeeze(1)[: n - waiting]
        if len(free):
            put(places.state, free, begin(rows[waiting : waiting + len(free)]))
            places.live[free] = True
            waiting += len(free)
        if waiting == n:
            places = shrunk(places, places.live)


def filled(n: int, size: int | None, device: torch.device) -> list[Tensor]:
    """Images 0 ... n - 1 in batches of one size, hence in the same kernels; the last is filled up with its first."""
    batches = torch.arange(n, device=device).split(size or max(n, 1))
    return [torch.cat([rows, rows[:1].expand((size or n) - len(rows))]) for rows in batches]
