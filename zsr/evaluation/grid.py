"""The block `grid` of params.yaml: the learning rates that are tried for every row, and the choice among them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from zsr.evaluation.evaluate import Attack, Evaluation
from zsr.files import distinct
from zsr.params import Count, Positive, StudyError, build, nested_component


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The block `grid` of params.yaml. With an empty block, every row is trained at the learning rate of its recipe.

    Attributes:
        lrs: the learning rates that are tried for every row that trains.
        shown_lr: the learning rate whose effective rates are drawn.
        held_out: number of images at the end of the training split that choose the rate. They are not trained on.
        attack: the attack under which the rate is chosen: `module` and hyper-parameters.
        evaluation: seed, batches and precision of the evaluation.
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
        """The attack built from the block. Raises ParamError that names the key."""
        return nested_component(self.attack, "attacks", "grid.attack")


def grid_of(document: Mapping) -> Grid | None:
    """The grid of a study, or None."""
    return build(Grid, document["grid"], "grid") if document["grid"] else None


def best_rate(rows: Sequence[Mapping]) -> str:
    """The rate with the highest held-out accuracy under attack, mean over seeds; the smallest of equal rates.

    rows: the rows of one method, {lr, held_out_robust, ...}. A rate at which a seed has a blank is left out. Raises
    StudyError where all rates are left out.
    """
    accuracies: dict[str, list[float]] = {}
    for lr in distinct(rows, "lr"):
        values = [row["held_out_robust"] for row in rows if row["lr"] == lr]
        if "" not in values:
            accuracies[lr] = [float(value) for value in values]
    if not accuracies:
        tried = ", ".join(distinct(rows, "lr"))
        raise StudyError(f"{rows[0]['method']} diverges at every rate of grid.lrs ({tried}); add smaller ones")
    return max(sorted(accuracies, key=float), key=lambda lr: fmean(accuracies[lr]))
