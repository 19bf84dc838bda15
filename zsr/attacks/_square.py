"""Square attack in l-infinity: random search that asks for logits alone. Andriushchenko et al., ECCV 2020."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zsr.attacks._noise import Noise
from zsr.attacks._passes import Model, predict
from zsr.attacks._places import through
from zsr.attacks._rows import wide
from zsr.attacks._windows import side, span
from zsr.losses import margin


@dataclass
class _Run:
    """What is known of R images."""

    rows: Tensor  # their places among all
    images: Tensor
    labels: Tensor
    best: Tensor
    margin: Tensor  # at best; the model is fooled where it is not positive
    stripes: Tensor  # (R, channels, 1, W), uniform on [-1, 1)
    draws: Tensor  # (R, n_queries, 2 + channels), the same: where squares are, and their signs
    done: Tensor  # passes; the first is that of the stripes


@dataclass(frozen=True, kw_only=True)
class Squares:
    """One run of the attack."""

    eps: float
    n_queries: int
    p_init: float
    name = "square"

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise, batch_size: int | None = None
    ) -> Tensor:
        """Images in the ball with the smallest margin found; an image leaves the batch once it fools the model."""
        channels, height, width = images.shape[1:]
        sizes = [0, *(side(query, height, width, self.p_init) for query in range(self.n_queries))]
        sides, adv = torch.tensor(sizes, device=images.device), images.clone()

        def begin(rows: Tensor) -> _Run:
            stripes = noise.take(rows).uniform((channels, 1, width), "square/stripes").to(images)
            draws = noise.take(rows).uniform((self.n_queries, 2 + channels), "square/queries").to(images)
            unknown = torch.full(rows.shape, torch.inf, device=images.device)
            return _Run(rows, images[rows], labels[rows], images[rows], unknown, stripes, draws, torch.zeros_like(rows))

        def step(run: _Run) -> Tensor:
            query = run.done.clamp(max=self.n_queries)
            x = torch.where(wide(run.done == 0), self._striped(run), self._squared(run, query, sides[query]))
            left = margin(predict(model, x), run.labels)
            taken = (run.done <= self.n_queries) & (run.margin > 0) & (left < run.margin)
            run.margin = torch.where(taken, left, run.margin)
            run.best = torch.where(wide(taken), x, run.best)
            adv[run.rows[taken]] = x[taken]
            run.done = run.done + 1
            return (run.done > self.n_queries) | ~(run.margin > 0)

        through(len(images), batch_size, images.device, begin, step)
        return adv

    def _striped(self, run: _Run) -> Tensor:
        """The start: every column of a channel pushed up or down."""
        return (run.images + self.eps * run.stripes.sign()).clamp(0, 1)

    def _squared(self, run: _Run, query: Tensor, size: Tensor) -> Tensor:
        """The best images with one square of each, (R,) pixels wide, pushed to a corner of the ball, (R, C, H, W)."""
        height, width = run.images.shape[-2:]
        draws = run.draws[torch.arange(len(query), device=query.device), (query - 1).clamp(min=0)]
        place, signs = draws.tensor_split([2], dim=1)
        room = torch.stack([height - size, width - size], dim=1)
        top, left = (room * ((place + 1) / 2)).long().unbind(1)
        inside = span(top, size, height)[:, None, :, None] & span(left, size, width)[:, None, None, :]
        pushed = run.best + 2 * self.eps * signs.sign()[:, :, None, None] * inside
        return pushed.clamp(run.images - self.eps, run.images + self.eps).clamp(0, 1)
