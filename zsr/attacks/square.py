"""Square attack: it uses no gradient, so masked gradients do not stop it. Andriushchenko et al., ECCV 2020.

It is a random search in l-infinity. Each query moves one square of the image to a corner of the ball. The change stays
where it lowers the margin.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zsr.attacks.batch import Noise, Places, cascade, wide
from zsr.models.passes import Model, margin, predict
from zsr.params import Checked, Iterations, PixelRange, Share

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which a square's area is halved


def side(query: int, height: int, width: int, p_init: float) -> int:
    """Side of the square at a query, in pixels. The area starts at a share p_init of the image (section 3.3)."""
    area = p_init / 2 ** sum(query > end for end in HALVINGS)
    return min(max(round(math.sqrt(area * height * width)), 1), height, width)


def span(start: Tensor, size: Tensor, end: int) -> Tensor:
    """Mask of the positions start ... start + size - 1 among 0 ... end - 1: (R,), (R,) -> (R, end) bool."""
    place = torch.arange(end, device=start.device) - start[:, None]
    return (place >= 0) & (place < size[:, None])


@dataclass
class _Run:
    """The state of R images."""

    rows: Tensor  # row numbers among all images
    images: Tensor
    labels: Tensor
    best: Tensor
    margin: Tensor  # margin at `best`; the model is fooled where the margin is not positive
    stripes: Tensor  # (R, channels, 1, W), uniform on [-1, 1): signs of the stripes
    draws: Tensor  # (R, n_queries, 2 + channels), uniform on [-1, 1): places and signs of squares
    done: Tensor  # number of passes so far; the first pass is for the stripes


@dataclass(frozen=True, kw_only=True)
class Squares:
    """One run of the attack.

    Attributes:
        eps: radius of the ball, in units of the pixel range [0, 1].
        n_queries: queries of the model for each image.
        p_init: share of the image that the first squares cover.
        name: the name that AutoAttack's authors use.
    """

    eps: float
    n_queries: int
    p_init: float
    name = "square"

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise, batch_size: int | None = None
    ) -> Tensor:
        """The points of smallest margin in the search. An image leaves the batch once the model is fooled."""
        channels, height, width = images.shape[1:]
        sizes = [0, *(side(query, height, width, self.p_init) for query in range(self.n_queries))]
        sides, adv = torch.tensor(sizes, device=images.device), images.clone()

        def begin(rows: Tensor) -> _Run:
            stripes = noise.take(rows).uniform((channels, 1, width), "square/stripes").to(images)
            draws = noise.take(rows).uniform((self.n_queries, 2 + channels), "square/queries").to(images)
            unknown = torch.full(rows.shape, torch.inf, device=images.device)
            return _Run(rows, images[rows], labels[rows], images[rows], unknown, stripes, draws, torch.zeros_like(rows))

        places = Places(len(images), batch_size, images.device, begin)
        while places.occupied:
            run = places.state
            query = run.done.clamp(max=self.n_queries)
            x = torch.where(wide(run.done == 0), self._striped(run), self._squared(run, query, sides[query]))
            margins = margin(predict(model, x), run.labels)
            improved = (run.done <= self.n_queries) & (run.margin > 0) & (margins < run.margin)
            run.margin = torch.where(improved, margins, run.margin)
            run.best = torch.where(wide(improved), x, run.best)
            adv[run.rows[improved]] = x[improved]
            run.done = run.done + 1
            places.release((run.done > self.n_queries) | ~(run.margin > 0))
        return adv

    def _striped(self, run: _Run) -> Tensor:
        """The start: every column of a channel moves up or down by eps."""
        return (run.images + self.eps * run.stripes.sign()).clamp(0, 1)

    def _squared(self, run: _Run, query: Tensor, size: Tensor) -> Tensor:
        """The best images, each with one square, (R,) pixels wide, moved to a corner of the ball, (R, C, H, W)."""
        height, width = run.images.shape[-2:]
        draws = run.draws[torch.arange(len(query), device=query.device), (query - 1).clamp(min=0)]
        place, signs = draws.tensor_split([2], dim=1)
        room = torch.stack([height - size, width - size], dim=1)
        top, left = (room * ((place + 1) / 2)).long().unbind(1)
        inside = span(top, size, height)[:, None, :, None] & span(left, size, width)[:, None, None, :]
        pushed = run.best + 2 * self.eps * signs.sign()[:, :, None, None] * inside
        return pushed.clamp(run.images - self.eps, run.images + self.eps).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Square(Checked):
    """Square. An image is a success where any query fools the model; misclassified clean images are not attacked.

    Attributes:
        eps: radius of the ball, in units of the pixel range [0, 1].
        n_queries: queries of the model for each image.
        p_init: share of the image that the first squares cover.
    """

    eps: PixelRange
    n_queries: Iterations = 5000
    p_init: Share = 0.8

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise | None = None, batch_size: int | None = None
    ) -> Tensor:
        """Adversarial images for a classifier of pixels: (N, 3, H, W) in [0, 1] -> the same shape, in the ball.

        noise: draws for these images; None: draws by the place of an image in the batch, with seed 0. batch_size:
        images in one pass of the model; None: all images.
        """
        run = Squares(eps=self.eps, n_queries=self.n_queries, p_init=self.p_init)
        return cascade(model, images, labels, noise, batch_size, lambda n_classes: [run])

    def attacks_run(self, n_classes: int) -> tuple[str, ...]:
        """The attack, which is the same for every number of classes."""
        return ("square",)

    def protocol(self) -> str:
        """The attack's part of a protocol: the facts to report with every number."""
        return (
            f"Square l-inf, eps {255 * self.eps:g}/255, {self.n_queries} queries, p {self.p_init:g}, 1 restart, "
            "any query, margin, no gradient"
        )


ATTACK = Square
