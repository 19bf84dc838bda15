"""APGD's step size: halved where it has stopped helping. Croce and Hein, ICML 2020, section 3.3."""

from dataclasses import dataclass

import torch
from torch import Tensor

RHO = 0.75


def periods(n_iter: int) -> dict[int, int]:
    """Iterations after which step sizes are checked -> iterations since the check before: {22: 22, 41: 19, ...}."""
    period, least, less = (max(int(share * n_iter), 1) for share in (0.22, 0.06, 0.03))
    found, end = {}, period
    while end <= n_iter:
        found[end] = period
        period = max(period - less, least)
        end += period
    return found


def due(n_iter: int, device: torch.device) -> Tensor:
    """After iteration 0 ... n_iter: the period of `periods` where a check is due, else 0."""
    found = periods(n_iter)
    return torch.tensor([found.get(done, 0) for done in range(n_iter + 1)], device=device)


@dataclass
class Controller:
    """The step size of every image and what it depends on, each (B,)."""

    step: Tensor
    best: Tensor  # the largest loss so far
    previous: Tensor  # the loss of the iterate before
    rises: Tensor  # since the last check
    checked: Tensor  # the best loss at the last check
    halved: Tensor  # was the step halved at the last check?

    @classmethod
    def begin(cls, step: float | Tensor, loss: Tensor) -> "Controller":
        """From the loss at the start."""
        zero = torch.zeros_like(loss)
        # The first rise is counted from 0 and not from the start: the authors' code reads an entry not yet written.
        return cls(zero + step, loss, zero, zero.int(), loss, torch.ones_like(loss, dtype=torch.bool))

    def observe(self, loss: Tensor) -> Tensor:
        """Take note of the loss of an iterate, (B,). True where it is the best so far."""
        better = loss > self.best
        self.rises = self.rises + (loss > self.previous)
        self.previous, self.best = loss, torch.where(better, loss, self.best)
        return better

    def check(self, period: Tensor) -> Tensor:
        """Halve the steps of images that rose too rarely, condition 1, or to no new best, 2. True where halved.

        period: (B,), 0 where no check is due.
        """
        due, stuck = period > 0, ~self.halved & (self.checked >= self.best)
        cut = due & ((self.rises <= RHO * period) | stuck)
        self.halved = torch.where(due, cut, self.halved)
        self.step = torch.where(cut, self.step / 2, self.step)
        self.checked = torch.where(due, self.best, self.checked)
        self.rises = self.rises.masked_fill(due, 0)
        return cut
