"""State of the images of a batch: dataclasses of tensors whose first dimension is the image's."""

from dataclasses import fields, replace
from typing import TypeVar

import torch
from torch import Tensor

State = TypeVar("State")  # a dataclass of tensors (R, ...), or of such dataclasses


def shrunk(state: State, active: Tensor) -> State:
    """The state of the active rows, (R,) bool, and of a few that fill them up to a size of batch.

    Sizes are 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: few shapes, hence few kernels, at most a third of the rows idle.
    """
    n = int(active.sum())
    grain = 2 ** max(n.bit_length() - 2, 0)
    size = -(-n // grain) * grain
    if size >= len(active):
        return state
    return take(state, active.int().argsort(descending=True, stable=True)[:size].sort()[0])


def wide(per_image: Tensor) -> Tensor:
    """(R,) -> (R, 1, 1, 1)."""
    return per_image[:, None, None, None]


def chosen(where: Tensor, some: State, others: State) -> State:
    """Of every row, (R,) bool, the state in `some` where true, else in `others`."""
    if isinstance(some, Tensor):
        return torch.where(where.view(-1, *[1] * (some.ndim - 1)), some, others)
    pairs = {field.name: (getattr(some, field.name), getattr(others, field.name)) for field in fields(some)}
    return replace(some, **{name: chosen(where, *pair) for name, pair in pairs.items()})


def take(state: State, rows: Tensor) -> State:
    if isinstance(state, Tensor):
        return state[rows]
    return replace(state, **{field.name: take(getattr(state, field.name), rows) for field in fields(state)})


def put(state: State, rows: Tensor, new: State) -> None:
    for field in fields(state):
        old, other = getattr(state, field.name), getattr(new, field.name)
        if isinstance(old, Tensor):
            setattr(state, field.name, old.index_put((rows,), other))  # a copy: old may be shared with another field
        else:
            put(old, rows, other)
