"""FAB: search along the decision boundary for the point nearest to the image. Croce and Hein, ICML 2020.

This is the targeted attack in l-infinity: it searches the boundary to one class at a time.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zsr.attacks.batch import Noise, Places, cascade, names_of, target_ranks, wide
from zsr.models.passes import Model, differentiate, fooled, likeliest_wrong, predict
from zsr.params import Checked, Iterations, PixelRange, Rounds

BIAS = 0.1  # largest share of the step towards the clean image
OVERSHOOT = 1.05
BACK = 0.9  # share of the perturbation that stays after a success
TINY = 1e-8


def step_to_plane(points: Tensor, normals: Tensor, gaps: Tensor) -> Tensor:
    """Smallest steps s in l-infinity, (B, d), with sum(normals * s) = -gaps, (B,), and points + s in [0, 1].

    Equation 5. Where the box [0, 1] does not reach the plane, the step goes to the corner nearest to the plane. A step
    moves every coordinate by min(reach, room): reach is the size of the step, room the distance to the face of the box.
    So it closes sum |w| min(reach, room) of the gap. This sum is concave and piecewise linear in the reach. Newton's
    method from 0 therefore converges from below, in as many passes as it meets slopes, without a sort.
    """
    normals = torch.where(gaps < 0, -1.0, 1.0)[:, None] * normals
    gaps, weights = gaps.abs()[:, None], normals.abs()
    room = torch.where(normals < 0, 1 - points, points)
    reach = torch.zeros_like(gaps)
    while True:
        free = room > reach
        slope = (weights * free).sum(1, keepdim=True)
        closed = (weights * room * ~free).sum(1, keepdim=True)
        # Without a free coordinate the slope is 0, and 0 / 0 would spoil the row while other rows go on.
        further = torch.where(slope > 0, (gaps - closed) / slope, torch.inf)
        if not (further > reach).any():  # the loop also ends where a gradient is NaN
            return -normals.sign() * torch.minimum(reach, room)
        reach = further.maximum(reach)


@dataclass
class _Run:
    """The state of R images."""

    rows: Tensor  # row numbers among all images
    images: Tensor
    classes: Tensor  # (R, 2): label and target
    x: Tensor
    distance: Tensor  # l-infinity distance of the nearest success
    done: Tensor  # number of iterations so far


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """One round of FAB: the boundary to the rank-th wrong class. It starts at the clean image; nothing is random.

    Attributes:
        eps: radius of the ball, in units of the pixel range [0, 1].
        n_iter: iterations.
        early_drop: True: an image leaves the batch at the first success inside the ball. False: the nearest success is
            sought.
        rank: rank of the target class among the wrong classes; 1 is the likeliest.
        name: the name that AutoAttack's authors use.
    """

    eps: float
    n_iter: int
    early_drop: bool
    rank: int
    name = "fab-t"

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise, batch_size: int | None = None
    ) -> Tensor:
        """Successes inside the ball; the clean image where there is no success."""
        classes = torch.stack([labels, likeliest_wrong(model, images, labels, self.rank, batch_size)], dim=1)
        far = torch.full(labels.shape, torch.inf, device=images.device)
        adv = images.clone()

        def begin(rows: Tensor) -> _Run:
            return _Run(rows, images[rows], classes[rows], images[rows], far[rows], torch.zeros_like(rows))

        places = Places(len(images), batch_size, images.device, begin)
        while places.occupied:
            run = places.state
            run.x, under_way = self._step(model, run), run.done < self.n_iter
            hit = fooled(predict(model, run.x), run.classes[:, 0])
            distance = (run.x - run.images).abs().amax((1, 2, 3))
            nearer = hit & under_way & (distance < run.distance)
            successes = nearer & (distance <= self.eps)
            successes = successes & (run.distance > self.eps) if self.early_drop else successes
            adv[run.rows[successes]] = run.x[successes]
            run.distance = torch.where(nearer, distance, run.distance)
            run.x = torch.where(wide(hit), run.images + BACK * (run.x - run.images), run.x)
            run.done = run.done + 1
            places.release((run.done >= self.n_iter) | ((run.distance <= self.eps) & self.early_drop))
        return adv

    def _step(self, model: Model, run: _Run) -> Tensor:
        """A point between two points just behind the linearised boundary, one nearest to x, one to the clean image."""
        _, gap, normal = differentiate(model, run.x, lambda logits: logits.gather(1, run.classes).diff()[:, 0])
        x, images, normal = run.x.flatten(1), run.images.flatten(1), normal.flatten(1)
        near = step_to_plane(x, normal, gap)
        clean = step_to_plane(images, normal, gap + (normal * (images - x)).sum(dim=1))
        step_sizes = [step.abs().amax(dim=1, keepdim=True).clamp(min=TINY) for step in (near, clean)]
        share = (step_sizes[0] / (step_sizes[0] + step_sizes[1])).clamp(max=BIAS)
        mixed = (x + OVERSHOOT * near) * (1 - share) + (images + OVERSHOOT * clean) * share
        return mixed.clamp(0, 1).view_as(run.x)


def boundaries(n_classes: int, n_targets: int, **settings: Any) -> list[Boundary]:
    """FAB's rounds, one for each target class. settings: eps, n_iter and early_drop of `Boundary`."""
    return [Boundary(rank=rank, **settings) for rank in target_ranks(n_classes, n_targets)]


@dataclass(frozen=True, kw_only=True)
class FAB(Checked):
    """FAB. An image is a success where FAB meets a point within eps; misclassified clean images are not attacked.

    Attributes:
        eps: radius of the ball, in units of the pixel range [0, 1].
        n_iter: iterations for each target class.
        n_targets: number of target classes, from the likeliest wrong class.
        early_drop: an image ends at a success. Without early_drop the verdicts are the same, and FAB returns the
            nearest success.
    """

    eps: PixelRange
    n_iter: Iterations = 100
    n_targets: Rounds = 9
    early_drop: bool = True

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise | None = None, batch_size: int | None = None
    ) -> Tensor:
        """Adversarial images for a classifier of pixels: (N, 3, H, W) in [0, 1] -> the same shape, in the ball.

        noise: draws for these images; None: draws by the place of an image in the batch, with seed 0. batch_size:
        images in one pass of the model; None: all images.
        """
        return cascade(model, images, labels, noise, batch_size, self._rounds)

    def attacks_run(self, n_classes: int) -> tuple[str, ...]:
        """The rounds that run on a set of n_classes classes, as `names_of` writes them."""
        return names_of(self._rounds(n_classes))

    def protocol(self) -> str:
        """The attack's part of a protocol: the facts to report with every number."""
        return (
            f"FAB l-inf, eps {255 * self.eps:g}/255, {self.n_iter} iterations towards each of {self.n_targets} "
            "likeliest wrong classes, start at the image, 1 restart, any iterate"
        )

    def _rounds(self, n_classes: int) -> list[Boundary]:
        return boundaries(n_classes, self.n_targets, eps=self.eps, n_iter=self.n_iter, early_drop=self.early_drop)


ATTACK = FAB
