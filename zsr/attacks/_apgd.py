"""Auto-PGD, one restart or target at a time. Croce and Hein, ICML 2020, algorithm 1."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zsr.attacks._balls import BALLS
from zsr.attacks._controller import periods
from zsr.attacks._noise import Noise
from zsr.attacks._passes import Model, differentiate, fooled, rival
from zsr.attacks._rows import shrunk
from zsr.attacks._trajectory import Trajectory, wide
from zsr.losses import cross_entropy, dlr, dlr_targeted

NAMES = {"ce": "apgd-ce", "dlr": "apgd-dlr", "dlr_targeted": "apgd-t"}


@dataclass
class _Run:
    """What is known of R images."""

    rows: Tensor  # their places in the batch
    classes: Tensor  # (R, 2), label and target
    fooled: Tensor
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

    def __call__(self, model: Model, images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        """The last iterate that fools the model, the first with early_drop; the image itself where none does."""
        ball, due = BALLS[self.norm](self.eps), periods(self.n_iter)
        x = ball.start(images, noise, f"{self.name}/{self.rank}/{self.restart}")
        classes = torch.stack([labels, rival(model, images, labels, self.rank) if self.rank else labels], dim=1)
        hit, loss, gradient = self._pass(model, x, classes)
        path = Trajectory.begin(images, x, loss, gradient, 2 * self.eps)
        run = _Run(torch.arange(len(x), device=x.device), classes, hit, path)
        adv = torch.where(wide(hit), x, images)
        for done in range(1, self.n_iter + 1):
            run = shrunk(run, ~run.fooled) if self.early_drop else run
            if not len(run.rows):
                break
            run.path.move(ball, first=done == 1)
            hit, loss, gradient = self._pass(model, run.path.x, run.classes)
            new = hit & ~run.fooled if self.early_drop else hit
            adv[run.rows[new]] = run.path.x[new]
            run.fooled = run.fooled | hit
            run.path.judge(loss, gradient, due.get(done))
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
