"""The processes of one run where torchrun has started several: which one is this, and what do they hand each other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from zsr.errors import StudyError

PATIENCE = timedelta(days=7)  # a rank may wait for another as long as a set takes; torchrun ends all when one dies


def rank() -> int:
    """This process among those of the run; 0 where there is one."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """How many processes the run has; 1 where it is not distributed."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


@contextmanager
def joined() -> Iterator[None]:
    """Meet the other processes that torchrun has started, if it has.

    Raises StudyError where one of them has gone.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    except RuntimeError as error:
        if not any(sender in str(error) for sender in ("gloo", "NCCL")):
            raise
        raise StudyError(f"process {rank()} of the run has lost another one") from None
    finally:
        distributed.destroy_process_group()


def gathered(own: Any) -> list[Any]:
    """What every process has, by rank. Objects are sent as they are pickled."""
    if world_size() == 1:
        return [own]
    parts: list[Any] = [None] * world_size()
    distributed.all_gather_object(parts, own)
    return parts


def of_first(own: Any) -> Any:
    """What the first process has."""
    if world_size() == 1:
        return own
    parts = [own]
    distributed.broadcast_object_list(parts)
    return parts[0]


def total(values: Tensor) -> Tensor:
    """The sum over processes, which hold tensors of one shape."""
    if world_size() > 1:
        distributed.all_reduce(values)
    return values


def joint_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """The rows of all processes one after another, (n, ...) -> (sum(counts), ...); a gradient flows back to their own.

    counts: how many rows of each process count, the first ones.
    """
    if world_size() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    padded = torch.cat([rows, rows[:1].expand(max(counts) - len(rows), *rows.shape[1:])])
    return torch.cat([part[:n] for part, n in zip(all_gather(padded), counts)])
