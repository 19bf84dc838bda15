"""FAB: to the decision boundary and along it, in search of the nearest point. Croce and Hein, ICML 2020."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zsr.attacks._noise import Noise
from zsr.attacks._passes import Model, differentiate, fooled, predict, rival
from zsr.attacks._projection import step_to_plane
from zsr.attacks._rows import shrunk
from zsr.attacks._trajectory import wide

BIAS = 0.1  # largest pull towards the clean image
OVERSHOOT = 1.05
BACK = 0.9  # share of the way that is kept after a success
TINY = 1e-8


@dataclass
class _Run:
    """What is known of R images."""

    rows: Tensor  # their places in the batch
    images: Tensor
    classes: Tensor  # (R, 2), label and target
    x: Tensor
    distance: Tensor  # of the nearest success


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """The boundary to the rank-th wrong class, from the clean image: nothing is random."""

    eps: float
    n_iter: int
    early_drop: bool  # an image leaves the batch at a success inside the ball; else the nearest one is sought
    rank: int
    name = "fab-t"

    def __call__(self, model: Model, images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        """Successes inside the ball, and the images where there is none."""
        classes = torch.stack([labels, rival(model, images, labels, self.rank)], dim=1)
        far = torch.full(labels.shape, torch.inf, device=images.device)
        run = _Run(torch.arange(len(images), device=images.device), images, classes, images, far)
        adv = images.clone()
        for _ in range(self.n_iter):
            run = shrunk(run, run.distance > self.eps) if self.early_drop else run
            if not len(run.rows):
                break
            run.x = self._step(model, run)
            hit = fooled(predict(model, run.x), run.classes[:, 0])
            distance = (run.x - run.images).abs().amax((1, 2, 3))
            nearer = hit & (distance < run.distance)
            new = nearer & (distance <= self.eps)
            new = new & (run.distance > self.eps) if self.early_drop else new
            adv[run.rows[new]] = run.x[new]
            run.distance = torch.where(nearer, distance, run.distance)
            run.x = torch.where(wide(hit), run.images + BACK * (run.x - run.images), run.x)
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
