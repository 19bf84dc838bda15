"""The block `grid` of params.yaml: learning rates that every row is tried at, and how one of them is chosen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zsr.evaluation.evaluate import Evaluation
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

    def __post_init__(self):
        if not self.lrs or len(set(self.lrs)) < len(self.lrs):
            raise ValueError(f"lrs must be at least one, none twice, got {list(self.lrs)}")
        if self.shown_lr not in self.lrs:
            raise ValueError(f"shown_lr must be one of {', '.join(map(str, self.lrs))}, got {self.shown_lr}")

    @property
    def made_attack(self) -> Any:
        """The attack itself. Raises ParamError naming the key."""
        return nested_component(self.attack, "attacks", "grid.attack")


def grid_of(document: Mapping) -> Grid | None:
    """The grid of a study, if it has one."""
    return build(Grid, document["grid"], "grid") if document["grid"] else None
