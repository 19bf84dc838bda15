"""The one training loop: optimiser, schedule, checkpoints, exact resume. The caller passes the loss.

All random numbers in a step are a function of (seed, step), so a run that was killed continues bit for bit.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from zsr import files, scratch
from zsr.compute import of_first, rank, total, world_size
from zsr.files import mix
from zsr.params import BatchSize, Count, Diverged, Epochs, Interval, Natural, NonNegative, Positive, StudyError, shown
from zsr.scratch import Watch, unwatched
from zsr.training.batches import Fold, Part, batch_indices, parts_of
from zsr.training.muon import Muon

MUON_RATE = 5  # factor of Muon's rate: a Muon step has the size of the rate, an Adam step does not
COLUMNS = ("step", "lr", "loss")  # first columns of a curve; the terms of the loss follow
Losses = Callable[[int, Part], dict[str, Tensor]]  # (step, part) -> named terms


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The training recipe, independent of the loss.

    Attributes:
        epochs: passes over the samples, at least 0; may be a fraction.
        batch_size: number of samples in a step, over all processes.
        optimizer: sgd, adamw or muon. muon: Muon for weight matrices of residual blocks, AdamW for other parameters.
        lr: the highest learning rate.
        betas: AdamW's two numbers, each from 0 to below 1; for sgd the first number is the momentum.
        weight_decay: weight decay as the optimiser defines it, at least 0.
        warmup_steps: number of steps of the linear warm-up.
        warmup_prefix: timm's word. True: the cosine begins after the warm-up. False, as AGFT publishes: the cosine
            begins at step 0, and the warm-up, from rate 0, takes the place of its first steps (quirk AG7).
        first_step_full_rate: the first step takes lr itself, before the schedule begins (quirk A2).
        grad_clip: largest norm of the whole gradient; 0: no clipping.
        save_every: number of steps between checkpoints of an unfinished run.
        accumulate: number of parts of a process's share of a batch. The process computes one part at a time, which
            needs less memory.
    """

    epochs: Epochs
    batch_size: BatchSize
    optimizer: Literal["sgd", "adamw", "muon"]
    lr: Positive
    betas: tuple[Annotated[float, Interval(0, 1, below=True)], ...] = (0.9, 0.999)
    weight_decay: NonNegative
    warmup_steps: Natural
    warmup_prefix: bool = True
    first_step_full_rate: bool = False
    grad_clip: NonNegative
    save_every: Count
    accumulate: BatchSize = 1

    def __post_init__(self) -> None:
        if len(self.betas) != 2:
            raise ValueError(f"betas must be two numbers, got {list(self.betas)}")
        if self.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
            raise ValueError(f"optimizer muon needs torch >= 2.9, this is {torch.__version__}; choose adamw or sgd")

    def n_steps(self, n_samples: int) -> int:
        """Number of steps of the whole run. The last, smaller batch of an epoch counts as a step."""
        return round(self.epochs * math.ceil(n_samples / self.batch_size))


def learning_rate(step: int, n_steps: int, recipe: Recipe) -> float:
    """The rate of a step, counted from 0, set before the step: linear warm-up to lr, then half a cosine towards 0."""
    base, warmup_steps = recipe.lr, recipe.warmup_steps
    if step == 0 and recipe.first_step_full_rate:
        return base
    if not recipe.warmup_prefix:
        if step < warmup_steps:
            return base * step / warmup_steps
        return 0.5 * base * (1 + math.cos(math.pi * step / n_steps))
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    return 0.5 * base * (1 + math.cos(math.pi * (step - warmup_steps) / (n_steps - warmup_steps)))


class Objective(nn.Module):
    """A module whose forward gives the terms of a part. DistributedDataParallel can wrap only a module."""

    def __init__(self, model: nn.Module, losses: Losses) -> None:
        super().__init__()
        self.model, self.losses = model, losses

    def forward(self, step: int, part: Part) -> dict[str, Tensor]:
        """Named, weighted scalar terms of a part of a step."""
        return self.losses(step, part)


@dataclass
class Progress:
    """The progress of a run.

    Attributes:
        step: number of the next step, from 0.
        rows: rows of the curve so far, one per step.
        pending: steps whose numbers are not checked yet. Each is (step, learning rate, terms, norm of the gradient,
            more columns of the curve).
    """

    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    pending: list[tuple[int, float, dict[str, Tensor], Tensor, dict[str, float]]] = field(default_factory=list)


def fit(
    model: nn.Module,
    losses: Losses,
    n_samples: int,
    recipe: Recipe,
    seed: int,
    unfinished: Path,
    watch: Watch = unwatched,
    fold: Callable[[str], Fold] = lambda term: "mean",
    observe: Callable[[nn.Module], dict[str, float]] = lambda model: {},
) -> list[dict[str, float]]:
    """Minimise the sum of the terms that `losses(step, part)` gives; returns one row per step.

    All processes of the run together train the model's parameters that require gradients, in place. fold: name of a
    term -> how its value over a batch follows from its values over parts. observe: model -> more columns of the curve;
    the model then has its gradient before clipping. The file `unfinished` holds the last checkpoint of an unfinished
    run until the caller deletes it. `watch` wraps the remaining steps.

    Raises Diverged where a loss or a gradient is not finite. On a CPU this happens before any parameter changes. On a
    GPU a check would wait for the computation, so it happens before the next checkpoint. The last checkpoint stays.
    """
    n_steps = recipe.n_steps(n_samples)
    optimizers = _optimizers(model, recipe)
    run = _resume(unfinished, model, optimizers)
    objective, on_cpu = _objective(model, losses), next(model.parameters()).device.type == "cpu"
    for step in watch(range(run.step, n_steps), run.step, lambda: run.rows):
        torch.manual_seed(mix(seed, step))
        lr = learning_rate(step, n_steps, recipe)
        model.zero_grad(set_to_none=True)
        batch = batch_indices(step, n_samples, recipe.batch_size, seed)
        terms = _accumulate_gradients(objective, step, parts_of(batch, recipe.accumulate), fold)
        observed, norm = observe(model), nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip or math.inf)
        run.pending.append((step, lr, terms, norm, observed))
        saves = (step + 1) % recipe.save_every == 0 and step + 1 < n_steps
        if on_cpu or saves or step + 1 == n_steps:
            _check_pending(run)
        _update(optimizers, lr)
        run.step = step + 1
        if saves and rank() == 0:
            _save(unfinished, model, optimizers, run)
    return run.rows


def _objective(model: nn.Module, losses: Losses) -> nn.Module:
    alone = Objective(model, losses)
    return alone if world_size() == 1 else DistributedDataParallel(alone)


def _accumulate_gradients(
    objective: nn.Module, step: int, parts: list[Part], fold: Callable[[str], Fold]
) -> dict[str, Tensor]:
    """Add up the gradients of the parts of a step; returns this process's share of the terms."""
    shares: dict[str, Tensor] = {}
    for part in parts:
        more = part is not parts[-1]
        with objective.no_sync() if more and isinstance(objective, DistributedDataParallel) else nullcontext():
            terms = objective(step, part)
            _check_terms(terms)
            weighted = {name: part.weight(fold(name)) * term for name, term in terms.items()}
            sum(weighted.values()).backward()
        for name, term in weighted.items():
            shares[name] = shares.get(name, 0) + term.detach() / world_size()
    return shares


def _check_terms(terms: Any) -> None:
    """Raise StudyError where the losses of a method are no named scalars with a gradient: it may be a user's own."""
    if not isinstance(terms, dict) or not terms or not all(map(_is_scalar, terms.values())):
        raise StudyError(f"the losses of a method must be scalar tensors by name, got {shown(terms)}; mend the method")
    if not all(isinstance(name, str) and name and name not in COLUMNS for name in terms):
        raise StudyError(f"the losses of a method need names other than {', '.join(COLUMNS)}, got {shown(list(terms))}")
    if not any(term.requires_grad for term in terms.values()):
        raise StudyError(f"the losses of the method ({', '.join(terms)}) have no gradient; mend the method")


def _is_scalar(term: Any) -> bool:
    return isinstance(term, Tensor) and not term.ndim


def _optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if recipe.optimizer == "sgd":
        momentum = recipe.betas[0]
        return [torch.optim.SGD(trained.values(), recipe.lr, momentum=momentum, weight_decay=recipe.weight_decay)]
    matrices = {n: p for n, p in trained.items() if recipe.optimizer == "muon" and "resblocks" in n and p.ndim == 2}
    rest = [p for name, p in trained.items() if name not in matrices]
    first, second = recipe.betas
    adamw = torch.optim.AdamW(rest, recipe.lr, (first, second), weight_decay=recipe.weight_decay, fused=True)
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if matrices:
        optimizers.append(Muon(matrices.values(), recipe.lr, weight_decay=recipe.weight_decay))
    return optimizers


def _update(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * (MUON_RATE if isinstance(optimizer, Muon) else 1)
        optimizer.step()


def _check_pending(run: Progress) -> None:
    """Check the pending steps and turn them into rows of the curve."""
    names = list(run.pending[0][2])
    for step, _, terms, _, _ in run.pending:
        if set(terms) != set(names) or run.rows and not set(terms) <= set(run.rows[0]):
            raise StudyError(
                f"the losses of a method must have equal names at all steps, and step {step} has {[*terms]}"
            )
    table = torch.stack([torch.stack([*terms.values()]) for _, _, terms, _, _ in run.pending])
    norms = torch.stack([norm for *_, norm, _ in run.pending]).tolist()
    for (step, lr, _, _, observed), values, norm in zip(run.pending, total(table).tolist(), norms):
        terms = dict(zip(names, values))
        if not math.isfinite(sum(values)):
            listed = ", ".join(f"{name} = {value:g}" for name, value in terms.items())
            raise Diverged(f"training stopped at step {step}: the loss is not finite ({listed}); lower lr or grad_clip")
        if not math.isfinite(norm):
            raise Diverged(f"training stopped at step {step}: the gradient is not finite (norm {norm:g}); lower lr")
        run.rows.append({"step": step, "lr": lr, "loss": sum(values)} | terms | observed)
    run.pending.clear()


def _save(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], run: Progress) -> None:
    states = [optimizer.state_dict() for optimizer in optimizers]
    content = {"model": model.state_dict(), "optimizers": states, "step": run.step, "rows": run.rows}
    buffer = io.BytesIO()
    torch.save({"training": path.parent.name} | content, buffer)
    files.write_atomic(path, buffer.getvalue())


def _resume(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Progress:
    """The progress of an unfinished run. All processes continue from the checkpoint of the first process."""
    content = of_first(scratch.readable(path, _checkpoint) if rank() == 0 else None)
    if content is None:
        return Progress()
    saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model"])
    for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    return Progress(saved["step"], saved["rows"])


def _checkpoint(path: Path) -> bytes:
    """The bytes of a file of `_save`. Raises Unusable: the file is damaged, or lies in the folder of another training.

    The folder has the name of the training.
    """
    files.check_zip(path)
    content = path.read_bytes()
    try:
        training = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)["training"]
    except Exception as error:  # a damaged file may raise any exception
        raise files.Unusable(path, f"is damaged ({type(error).__name__})") from None
    if training != path.parent.name:
        raise files.Unusable(path, f"is of the training {training}, not of {path.parent.name}")
    return content


def kept_curve(weights: Path, training: str, curve: Path) -> list[dict[str, str]]:
    """The curve of a finished training in kept work.

    Args:
        weights: the file of the trained weights. Its facts name the training and hold the digest of the curve.
        training: the key of the training.
        curve: the file of the curve.

    Raises:
        Unusable: one of both files is not there, is damaged or is of another training.
    """
    files.check_content(weights)
    facts = files.load_facts(weights)
    if facts.get("training") != training:
        raise files.Unusable(weights, f"is of the training {facts.get('training')}, not of {training}")
    if facts.get("curve") != files.sha256(curve):
        raise files.Unusable(curve, "is damaged, or is of another training")
    return files.read_rows(curve)


def facts_of_training(training: str, curve: str) -> dict[str, str]:
    """The facts that `kept_curve` finds in the file of the weights. curve: the text of the file of the curve."""
    return {"training": training, "curve": sha256(curve.encode()).hexdigest()}


def mean_curve(curves: Sequence[Sequence[Mapping[str, str]]]) -> list[dict[str, float | str]]:
    """The mean curve over seeds, step by step, of curves that were read from CSV."""
    return [
        {key: rows[0][key] if key in ("step", "lr") else fmean(float(row[key]) for row in rows) for key in rows[0]}
        for rows in zip(*curves, strict=True)
    ]
