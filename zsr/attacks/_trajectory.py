"""Where APGD is with every image: momentum, best point, step size. Croce and Hein, ICML 2020, algorithm 1."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zsr.attacks._balls import L2, Linf
from zsr.attacks._controller import Controller
from zsr.attacks._rows import chosen, wide

MOMENTUM = 0.75  # share of the new step in a move; the rest is the move before


@dataclass
class Trajectory:
    """Tensors of R images; `x` and its like are (R, 3, H, W) in [0, 1]."""

    images: Tensor  # the centres of the balls
    x: Tensor
    before: Tensor  # the iterate before x
    gradient: Tensor  # at x
    best: Tensor  # the iterate of largest loss
    best_gradient: Tensor
    passes: Tensor  # of the model, so far
    control: Controller

    @classmethod
    def begin(cls, images: Tensor, x: Tensor, step: float) -> "Trajectory":
        """Before the first pass."""
        passes = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return cls(images, x, x, x, x, x, passes, Controller.begin(step, x.new_zeros(len(x))))

    def judge(self, loss: Tensor, gradient: Tensor, period: Tensor) -> None:
        """Take note of the loss (R,) and the gradient at x. At a check, steps are halved, and go on from the best.

        period: iterations since the check before, (R,), 0 where there is none to be made.
        """
        first = self.passes == 0
        better = wide(self.control.observe(loss) | first)
        self.control = chosen(first, Controller.begin(self.control.step, loss), self.control)
        self.best = torch.where(better, self.x, self.best)
        self.best_gradient = torch.where(better, gradient, self.best_gradient)
        back = wide(self.control.check(period))
        self.x = torch.where(back, self.best, self.x)  # `before` stays, as in the authors' code
        self.gradient = torch.where(back, self.best_gradient, gradient)
        self.passes = self.passes + 1

    def move(self, ball: Linf | L2) -> None:
        """A step along the gradient, mixed with the move before; both are projected."""
        share = wide(torch.where(self.passes == 1, 1.0, MOMENTUM))
        stepped = ball.project(self.x + wide(self.control.step) * ball.direction(self.gradient), self.images)
        mixed = self.x + (stepped - self.x) * share + (self.x - self.before) * (1 - share)
        self.x, self.before = ball.project(mixed, self.images), self.x
