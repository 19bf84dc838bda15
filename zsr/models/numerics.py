"""Where passes are computed, and in which numbers.

fp32: as it says, also on GPUs. tf32: fp32 numbers, products of 10-bit mantissas on GPUs that have them; fp32 on a CPU.
bf16, fp16: torch.autocast, and tf32 for what stays fp32 in it.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from zsr.errors import ParamError

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Compute:
    device: Literal["auto", "cpu", "cuda"]  # auto: a GPU where there is one
    compile: bool = False  # the image tower through torch.compile
    channels_last: bool = False  # weights and images of convolutions

    def place(self) -> torch.device:
        """The device of this process: of several GPUs that with its number. Raises ParamError where there is none."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ParamError("compute.device is cuda, but torch sees no GPU; choose auto or cpu")
        if self.device == "cpu" or not torch.cuda.is_available():
            return torch.device("cpu")
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        return device


@contextmanager
def products(device: torch.device, precision: Precision) -> Iterator[None]:
    """How fp32 numbers are multiplied on a GPU; a backward must be inside as well as its forward.

    The flags are those of the whole process, so no thread may set them beside another's passes.
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


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """For a forward in bf16 or fp16; nothing where the precision is another."""
    return torch.autocast(device.type, HALF[precision]) if precision in HALF else nullcontext()


ON_CPU = Compute(device="cpu", compile=False, channels_last=False)
