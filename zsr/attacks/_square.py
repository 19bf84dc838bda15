"""Square attack in l-infinity: random search that asks for logits alone. Andriushchenko et al., ECCV 2020."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zsr.attacks._noise import Noise
from zsr.attacks._passes import Model, predict
from zsr.attacks._rows import shrunk
from zsr.losses import margin

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which a square's area is halved


def side(query: int, height: int, width: int, p_init: float) -> int:
    """Of the square at a query, in pixels: it starts at a share p_init of the image (section 3.3)."""
    area = p_init / 2 ** sum(query > end for end in HALVINGS)
    return min(max(round(math.sqrt(area * height * width)), 1), height, width)


@dataclass
class _Run:
    """What is known of R images."""

    rows: Tensor  # their places in the batch
    images: Tensor
    labels: Tensor
    best: Tensor
    margin: Tensor  # at best; the model is fooled where it is not positive
    draws: Tensor  # (R, n_queries, 2 + channels), uniform on [-1, 1): where squares are, and their signs


@dataclass(frozen=True, kw_only=True)
class Squares:
    """One run of the attack."""

    eps: float
    n_queries: int
    p_init: float
    name = "square"

    def __call__(self, model: Model, images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        """Images in the ball with the smallest margin found; an image leaves the batch once it fools the model."""
        n, channels, _, width = images.shape
        stripes = noise.uniform((channels, 1, width), "square/stripes").to(images).sign()
        draws = noise.uniform((self.n_queries, 2 + channels), "square/queries").to(images)
        adv = (images + self.eps * stripes).clamp(0, 1)
        left = margin(predict(model, adv), labels)
        run = _Run(torch.arange(n, device=images.device), images, labels, adv.clone(), left, draws)
        for query in range(self.n_queries):
            run = shrunk(run, run.margin > 0)
            if not len(run.rows):
                break
            x = self._proposed(run, query)
            left = margin(predict(model, x), run.labels)
            taken = (run.margin > 0) & (left < run.margin)
            run.margin = torch.where(taken, left, run.margin)
            run.best[taken] = adv[run.rows[taken]] = x[taken]
        return adv

    def _proposed(self, run: _Run, query: int) -> Tensor:
        """The best images with one square of each pushed to a corner of the ball, (R, C, H, W)."""
        height, width = run.images.shape[-2:]
        size = side(query, height, width, self.p_init)
        place, signs = run.draws[:, query].tensor_split([2], dim=1)
        room = place.new_tensor([height - size, width - size])
        top, left = (room * ((place + 1) / 2)).long().unbind(1)
        inside = _span(top, size, height)[:, None, :, None] & _span(left, size, width)[:, None, None, :]
        pushed = run.best + 2 * self.eps * signs.sign()[:, :, None, None] * inside
        return pushed.clamp(run.images - self.eps, run.images + self.eps).clamp(0, 1)


def _span(start: Tensor, size: int, end: int) -> Tensor:
    """Places from start to start + size of 0 ... end, (R,) -> (R, end)."""
    place = torch.arange(end, device=start.device) - start[:, None]
    return (place >= 0) & (place < size)
