"""Where and how a stage computes: its device, the precision of its passes, and its processes.

fp32: full fp32, also on GPUs. tf32: fp32 numbers, but GPUs that can multiply with 10-bit mantissas; on a CPU this is
fp32. bf16, fp16: torch.autocast, with tf32 for the operations that autocast leaves in fp32.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor, distributed

from zsr.params import ParamError, StudyError

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
CHILD, OF_RUN = "TORCHELASTIC_RUN_ID", ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun
# A rank may wait for another rank as long as a set takes; torchrun ends all ranks when one dies.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True, kw_only=True)
class Compute:
    """The block `compute` of params.yaml.

    Attributes:
        device: cpu, cuda, or auto: a GPU where there is one, else the CPU.
        compile: does the image tower run through torch.compile?
        channels_last: do convolutions use the channels_last memory format for weights and images?
    """

    device: Literal["auto", "cpu", "cuda"]
    compile: bool = False
    channels_last: bool = False

    def place(self) -> torch.device:
        """The device of this process; process n takes GPU n. Raises ParamError: device is cuda, but no GPU is there."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ParamError("compute.device is cuda, but torch sees no GPU; choose auto or cpu")
        if self.device == "cpu" or not torch.cuda.is_available():
            return torch.device("cpu")
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) if CHILD in os.environ else 0)
        torch.cuda.set_device(device)
        return device


@contextmanager
def matmul_precision(device: torch.device, precision: Precision) -> Iterator[None]:
    """Set how a GPU multiplies fp32 numbers. Both the forward and the backward must run inside the context.

    The flags belong to the whole process, so a thread must not set them while another thread runs passes.
    """
    if device.type != "cuda":
        yield
        return
    assert threading.current_thread() is threading.main_thread(), "numeric flags of a GPU belong to the main thread"
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32
    matmul.allow_tf32 = convolution.allow_tf32 = precision != "fp32"
    try:
        yield
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = before


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Autocast for a forward in bf16 or fp16; no effect for other precisions."""
    return torch.autocast(device.type, HALF[precision]) if precision in HALF else nullcontext()


ON_CPU = Compute(device="cpu", compile=False, channels_last=False)


# The processes of one run that torchrun has started


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
    if CHILD not in os.environ:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        distributed.init_process_group(backend, timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        found = ", ".join(f"{name} {os.environ.get(name, 'not set')!a}" for name in OF_RUN)
        raise StudyError(
            f"{CHILD} is set, as torchrun does, and the run cannot be joined ({type(error).__name__}; {found}): "
            f"start the command again, or unset {CHILD}"
        ) from None
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
