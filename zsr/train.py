"""The one training loop: optimiser, schedule, checkpoints, exact resume. It is handed what to minimise.

Everything random in a step is a function of (seed, step), so a run that was killed continues bit for bit.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from zsr import storage
from zsr.errors import StudyError
from zsr.params import Count, Interval, Natural, NonNegative, Positive
from zsr.watch import Watch, unwatched

MUON_RATE = 5  # Muon's steps have the size of the rate, not of Adam's


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How parameters move, whatever the loss."""

    epochs: NonNegative  # may be a fraction
    batch_size: Count
    optimizer: Literal["sgd", "adamw", "muon"]  # muon: the weight matrices of residual blocks; AdamW on the rest
    lr: Positive
    betas: tuple[Annotated[float, Interval(0, 1, below=True)], ...] = (0.9, 0.999)  # sgd: momentum is the first of them
    weight_decay: NonNegative
    warmup_steps: Natural
    first_step_full_rate: bool = False  # the first step, before the schedule sets in, takes lr itself (quirk A2)
    grad_clip: NonNegative  # largest norm of the whole gradient; 0: no clipping
    save_every: Count  # steps between checkpoints of an unfinished run

    def __post_init__(self):
        if len(self.betas) != 2:
            raise ValueError(f"betas must be two numbers, got {list(self.betas)}")
        if self.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
            raise ValueError(f"optimizer muon needs torch >= 2.9, this is {torch.__version__}; choose adamw or sgd")

    def n_steps(self, n_samples: int) -> int:
        """Steps of the whole run; the last, smaller batch of an epoch counts."""
        return round(self.epochs * math.ceil(n_samples / self.batch_size))


def learning_rate(step: int, n_steps: int, recipe: Recipe) -> float:
    """Linear warm-up to lr, then half a cosine towards 0; step counts from 0, the rate is set before the step."""
    base, warmup_steps = recipe.lr, recipe.warmup_steps
    if step == 0 and recipe.first_step_full_rate:
        return base
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    return 0.5 * base * (1 + math.cos(math.pi * (step - warmup_steps) / (n_steps - warmup_steps)))


def batch_indices(step: int, n_samples: int, batch_size: int, seed: int) -> Tensor:
    """The samples of a step: each epoch passes once over all of them, in an order fixed by (seed, epoch)."""
    epoch, position = divmod(step, math.ceil(n_samples / batch_size))
    order = torch.randperm(n_samples, generator=torch.Generator().manual_seed(mix(seed, epoch)))
    return order[position * batch_size : (position + 1) * batch_size]


def mix(*numbers: int) -> int:
    """One seed of 60 bits from several numbers."""
    return int(storage.digest(repr(numbers))[:15], 16)


@dataclass
class Progress:
    """Where a run is, and the rows of its curve so far."""

    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)


def fit(
    model: nn.Module,
    losses: Callable[[int, Tensor], dict[str, Tensor]],
    n_samples: int,
    recipe: Recipe,
    seed: int,
    scratch: Path,
    watch: Watch = unwatched,
) -> list[dict[str, float]]:
    """Minimise the sum of the terms that `losses(step, sample indices)` gives; returns one row per step.

    The model's parameters that require gradients are trained, in place. An unfinished run is kept in `scratch`
    and continued; the caller deletes the file once it has written the result. `watch` wraps the steps to come
    (a progress bar), told how many are done.

    Raises StudyError where a loss or a gradient is not finite, before any parameter moves; the last checkpoint stays.
    """
    n_steps = recipe.n_steps(n_samples)
    optimizers = _optimizers(model, recipe)
    run = _resume(scratch, model, optimizers)
    for step in watch(range(run.step, n_steps), run.step):
        torch.manual_seed(mix(seed, step))
        lr = learning_rate(step, n_steps, recipe)
        _set_rate(optimizers, lr)
        model.zero_grad(set_to_none=True)
        terms = losses(step, batch_indices(step, n_samples, recipe.batch_size, seed))
        run.rows.append(_row(step, lr, terms))
        sum(terms.values()).backward()
        _clip(model, recipe.grad_clip, step)
        for optimizer in optimizers:
            optimizer.step()
        run.step = step + 1
        if run.step % recipe.save_every == 0 and run.step < n_steps:
            _save(scratch, model, optimizers, run)
    return run.rows


def _optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if recipe.optimizer == "sgd":
        momentum = recipe.betas[0]
        return [torch.optim.SGD(trained.values(), recipe.lr, momentum=momentum, weight_decay=recipe.weight_decay)]
    matrices = {n: p for n, p in trained.items() if recipe.optimizer == "muon" and "resblocks" in n and p.ndim == 2}
    rest = [p for name, p in trained.items() if name not in matrices]
    optimizers = [torch.optim.AdamW(rest, recipe.lr, recipe.betas, weight_decay=recipe.weight_decay, fused=True)]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices.values(), recipe.lr, weight_decay=recipe.weight_decay))
    return optimizers


def _set_rate(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * (MUON_RATE if isinstance(optimizer, getattr(torch.optim, "Muon", ())) else 1)


def _clip(model: nn.Module, largest: float, step: int) -> None:
    norm = nn.utils.clip_grad_norm_(model.parameters(), largest or math.inf)
    if not norm.isfinite():
        raise StudyError(f"training stopped at step {step}: the gradient is not finite (norm {norm:g}); lower lr")


def _row(step: int, lr: float, terms: dict[str, Tensor]) -> dict[str, float]:
    values = {name: term.item() for name, term in terms.items()}
    if not math.isfinite(sum(values.values())):
        listed = ", ".join(f"{name} = {value:g}" for name, value in values.items())
        raise StudyError(f"training stopped at step {step}: the loss is not finite ({listed}); lower lr or grad_clip")
    return {"step": step, "lr": lr, "loss": sum(values.values())} | values


def _save(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], run: Progress) -> None:
    states = [optimizer.state_dict() for optimizer in optimizers]
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizers": states, "step": run.step, "rows": run.rows}, buffer)
    storage.write_atomic(path, buffer.getvalue())


def _resume(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Progress:
    if not path.exists():
        return Progress()
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    return Progress(saved["step"], saved["rows"])
