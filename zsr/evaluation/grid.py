"""The block `grid` of params.yaml: learning rates that every row is tried at, and how one of them is chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from zsr.errors import StudyError
from zsr.evaluation.evaluate import Attack, Evaluation
from zsr.files import distinct
from zsr.params import Count, Positive, build, nested_component


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The block `grid` of params.yaml; an empty one: every row is trained at its own rate alone.

    Attributes:
        lrs: the rates, tried for every row that trains.
        shown_lr: the one whose effective rates are drawn.
        held_out: how many images of the training split, its last, choose the rate. They are not trained on.
        attack: a row of an attack, under which the rate is chosen; with `module`.
        evaluation: seed, batches and precision of the judgement.
    """

    lrs: tuple[Positive, ...]
    shown_lr: Positive
    held_out: Count
    attack: dict[str, Any] = field(default_factory=dict)
    evaluation: Evaluation

    def __post_init__(self) -> None:
        if not self.lrs or len(set(self.lrs)) < len(self.lrs):
            raise ValueError(f"lrs must be at least one, none twice, got {list(self.lrs)}")
        if self.shown_lr not in self.lrs:
            raise ValueError(f"shown_lr must be one of {', '.join(map(str, self.lrs))}, got {self.shown_lr}")

    @property
    def made_attack(self) -> Attack:
        """The attack itself. Raises ParamError naming the key."""
        return nested_component(self.attack, "attacks", "grid.attack")


def grid_of(document: Mapping) -> Grid | None:
    """The grid of a study, if it has one."""
    return build(Grid, document["grid"], "grid") if document["grid"] else None


def best_rate(rows: Sequence[Mapping]) -> str:
    """The rate with the highest held-out accuracy under attack, mean over seeds; of equal ones the smallest.

    rows: of one method, {lr, held_out_robust, ...}; a rate at which a seed has a blank is out. Raises StudyError where
    all are.
    """
    values_of: dict[str, list[float]] = {}
    for lr in distinct(rows, "lr"):
        values = [row["held_out_robust"] for row in rows if row["lr"] == lr]
        if "" not in values:
            values_of[lr] = [float(value) for value in values]
    if not values_of:
        tried = ", ".join(distinct(rows, "lr"))
        raise StudyError(f"{rows[0]['method']} diverges at every rate of grid.lrs ({tried}); add smaller ones")
    return max(sorted(values_of, key=float), key=lambda lr: fmean(values_of[lr]))
