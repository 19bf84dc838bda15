"""Auto-PGD, one restart or target at a time. Croce and Hein, ICML 2020, algorithm 1."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zsr.attacks._balls import BALLS
from zsr.attacks._controller import due
from zsr.attacks._noise import Noise
from zsr.attacks._passes import Model, differentiate, fooled, rival
from zsr.attacks._places import through
from zsr.attacks._trajectory import Trajectory
from zsr.losses import cross_entropy, dlr, dlr_targeted

NAMES = {"ce": "apgd-ce", "dlr": "apgd-dlr", "dlr_targeted": "apgd-t"}


@dataclass
class _Run:
    """What is known of R images."""

    rows: Tensor  # their places among all
    classes: Tensor  # (R, 2), label and target
    over: Tensor
    path: Trajectory


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """One restart of APGD, towards the rank-th wrong class where the loss is targeted."""

    norm: str
    eps: float
    n_iter: int
    loss: str
    early_drop: bool  # an image leaves the batch once fooled
    restart: int = 0
    rank: int = 0

    @property
    def name(self) -> str:
        return NAMES[self.loss]

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise, batch_size: int | None = None
    ) -> Tensor:
        """The last iterate that fools the model, the first with early_drop; the image itself where none does."""
        ball, stream = BALLS[self.norm](self.eps), f"{self.name}/{self.rank}/{self.restart}"
        targets = rival(model, images, labels, self.rank, batch_size) if self.rank else labels
        classes, adv = torch.stack([labels, targets], dim=1), images.clone()
        checks = due(self.n_iter, images.device)

        def begin(rows: Tensor) -> _Run:
            start = ball.start(images[rows], noise.take(rows), stream)
            path = Trajectory.begin(images[rows], start, 2 * self.eps)
            return _Run(rows, classes[rows], torch.zeros_like(rows, dtype=torch.bool), path)

        def step(run: _Run) -> Tensor:
            hit, loss, gradient = self._pass(model, run.path.x, run.classes)
            new = hit & ~run.over
            adv[run.rows[new]] = run.path.x[new]
            run.path.judge(loss, gradient, checks[run.path.passes.clamp(max=self.n_iter)])
            run.path.move(ball)
            run.over = run.over | (run.path.passes > self.n_iter) | (hit & self.early_drop)
            return run.over

        through(len(images), batch_size, images.device, begin, step)
        return adv

    def _pass(self, model: Model, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Is the model fooled (R,), the loss (R,), and its gradient by x."""
        labels, targets = classes.unbind(1)
        losses = {
            "ce": lambda logits: cross_entropy(logits, labels),
            "dlr": lambda logits: dlr(logits, labels),
            "dlr_targeted": lambda logits: dlr_targeted(logits, labels, targets),
        }
        logits, loss, gradient = differentiate(model, x, losses[self.loss])
        return fooled(logits, labels), loss, gradient
