"""FAB: to the decision boundary and along it, in search of the nearest point. Croce and Hein, ICML 2020."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zsr.attacks._noise import Noise
from zsr.attacks._passes import Model, differentiate, fooled, predict, rival
from zsr.attacks._places import through
from zsr.attacks._projection import step_to_plane
from zsr.attacks._rows import wide

BIAS = 0.1  # largest pull towards the clean image
OVERSHOOT = 1.05
BACK = 0.9  # share of the way that is kept after a success
TINY = 1e-8


@dataclass
class _Run:
    """What is known of R images."""

    rows: Tensor  # their places among all
    images: Tensor
    classes: Tensor  # (R, 2), label and target
    x: Tensor
    distance: Tensor  # of the nearest success
    done: Tensor  # iterations


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """The boundary to the rank-th wrong class, from the clean image: nothing is random."""

    eps: float
    n_iter: int
    early_drop: bool  # an image leaves the batch at a success inside the ball; else the nearest one is sought
    rank: int
    name = "fab-t"

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise, batch_size: int | None = None
    ) -> Tensor:
        """Successes inside the ball, and the images where there is none."""
        classes = torch.stack([labels, rival(model, images, labels, self.rank, batch_size)], dim=1)
        far = torch.full(labels.shape, torch.inf, device=images.device)
        adv = images.clone()

        def begin(rows: Tensor) -> _Run:
            return _Run(rows, images[rows], classes[rows], images[rows], far[rows], torch.zeros_like(rows))

        def step(run: _Run) -> Tensor:
            run.x, under_way = self._step(model, run), run.done < self.n_iter
            hit = fooled(predict(model, run.x), run.classes[:, 0])
            distance = (run.x - run.images).abs().amax((1, 2, 3))
            nearer = hit & under_way & (distance < run.distance)
            new = nearer & (distance <= self.eps)
            new = new & (run.distance > self.eps) if self.early_drop else new
            adv[run.rows[new]] = run.x[new]
            run.distance = torch.where(nearer, distance, run.distance)
            run.x = torch.where(wide(hit), run.images + BACK * (run.x - run.images), run.x)
            run.done = run.done + 1
            return (run.done >= self.n_iter) | ((run.distance <= self.eps) & self.early_drop)

        through(len(images), batch_size, images.device, begin, step)
        return adv

    def _step(self, model: Model, run: _Run) -> Tensor:
        """Between two points just behind the linearised boundary: nearest to x, and nearest to the clean image."""
        _, gap, normal = differentiate(model, run.x, lambda logits: logits.gather(1, run.classes).diff()[:, 0])
        x, images, normal = run.x.flatten(1), run.images.flatten(1), normal.flatten(1)
        near = step_to_plane(x, normal, gap)
        clean = step_to_plane(images, normal, gap + (normal * (images - x)).sum(dim=1))
        ways = [step.abs().amax(dim=1, keepdim=True).clamp(min=TINY) for step in (near, clean)]
        share = (ways[0] / (ways[0] + ways[1])).clamp(max=BIAS)
        mixed = (x + OVERSHOOT * near) * (1 - share) + (images + OVERSHOOT * clean) * share
        return mixed.clamp(0, 1).view_as(run.x)
