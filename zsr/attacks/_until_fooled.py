"""Steps that end where they have fooled the model."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zsr.attacks._noise import Noise
from zsr.attacks._passes import Model, differentiate, fooled, sketched
from zsr.attacks._places import through
from zsr.attacks._rows import wide
from zsr.attacks._steps import Steps
from zsr.models.numerics import products


@dataclass
class _Run:
    """What is known of R images."""

    rows: Tensor  # their places among all
    x: Tensor
    done: Tensor  # passes
    over: Tensor


def until_fooled(
    steps: Steps,
    scores: Callable[[Tensor, Tensor], Tensor],
    model: Model,
    images: Tensor,
    labels: Tensor,
    noise: Noise,
    batch_size: int | None,
) -> Tensor:
    """The first point of an ascent at which the model is fooled, the last where it never is: (N, 3, H, W).

    scores: what is raised, of logits (R, C) and labels (R,) -> (R,).
    """
    adv, model = images.clone(), sketched(model, steps.precision)

    def begin(rows: Tensor) -> _Run:
        start = steps.start(images[rows], noise.take(rows))
        return _Run(rows, start, torch.zeros_like(rows), torch.zeros_like(rows, dtype=torch.bool))

    def step(run: _Run) -> Tensor:
        of = labels[run.rows]
        logits, _, gradient = differentiate(model, run.x, lambda logits: scores(logits, of))
        hit, further = fooled(logits, of), steps.moved(run.x, gradient, images[run.rows])
        run.done = run.done + 1
        ends = ~run.over & (hit | (run.done == steps.n_iter))
        adv[run.rows[ends]] = torch.where(wide(hit), run.x, further)[ends]
        run.x, run.over = further, run.over | ends
        return run.over

    with products(images.device, steps.precision):
        through(len(images), batch_size, images.device, begin, step)
    return adv
