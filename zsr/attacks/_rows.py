"""Per-image state of a batch that shrinks as its images are fooled."""

from dataclasses import fields, replace
from typing import TypeVar

from torch import Tensor

State = TypeVar("State")  # a dataclass of tensors (B, ...), or of such dataclasses


def shrunk(state: State, active: Tensor) -> State:
    """The state of the active rows, (B,) bool, and of a few that fill them up to a size of batch.

    Sizes are 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: few shapes, hence few kernels, at most a third of the rows idle.
    """
    n = int(active.sum())
    grain = 2 ** max(n.bit_length() - 2, 0)
    size = -(-n // grain) * grain
    if size >= len(active):
        return state
    return take(state, active.int().argsort(descending=True, stable=True)[:size].sort()[0])


def take(state: State, rows: Tensor) -> State:
    """The same state for some rows."""
    if isinstance(state, Tensor):
        return state[rows]
    return replace(state, **{field.name: take(getattr(state, field.name), rows) for field in fields(state)})
