"""The processes of one run that torchrun has started: rank, number of processes, and the exchange of values."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from zsr.errors import StudyError

# A rank may wait for another rank as long as a set takes; torchrun ends all ranks when one dies.
PATIENCE = timedelta(days=7)


def rank() -> int:
    """The rank of this process in the run; 0 where the run is not distributed."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """The number of processes of the run; 1 where the run is not distributed."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


@contextmanager
def joined() -> Iterator[None]:
    """Join the process group of the run, where torchrun has started this process.

    Raises StudyError where another process has gone.
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


def gathered(value: Any) -> list[Any]:
    """The values of all processes, in the order of ranks. Values are pickled."""
    if world_size() == 1:
        return [value]
    parts: list[Any] = [None] * world_size()
    distributed.all_gather_object(parts, value)
    return parts


def of_first(value: Any) -> Any:
    """The value of the first process."""
    if world_size() == 1:
        return value
    parts = [value]
    distributed.broadcast_object_list(parts)
    return parts[0]


def total(values: Tensor) -> Tensor:
    """The sum of `values` over processes. The tensors of all processes must have the same shape."""
    if world_size() > 1:
        distributed.all_reduce(values)
    return values


def joint_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """The rows of all processes one after another, (n, ...) -> (sum(counts), ...).

    Gradients flow back to the process of each row. counts: number of rows of each process that count, its first rows.
    """
    if world_size() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    padded = torch.cat([rows, rows[:1].expand(max(counts) - len(rows), *rows.shape[1:])])
    return torch.cat([part[:n] for part, n in zip(all_gather(padded), counts)])
