"""Passes through a model: their device, their precision, and their gradient by the pixels.

fp32: full fp32, also on GPUs. tf32: fp32 numbers, but GPUs that can multiply with 10-bit mantissas; on a CPU this is
fp32. bf16, fp16: torch.autocast, with tf32 for the operations that autocast leaves in fp32.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from zsr.errors import ParamError

Model = Callable[[Tensor], Tensor]  # images (B, 3, H, W) in [0, 1] -> logits (B, C)
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


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
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
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


def filled(n: int, size: int | None, device: torch.device) -> list[Tensor]:
    """Row numbers 0 ... n - 1 in batches of equal size, so of equal kernels. The last batch repeats its first row."""
    batches = torch.arange(n, device=device).split(size or max(n, 1))
    return [torch.cat([rows, rows[:1].expand((size or n) - len(rows))]) for rows in batches]


@torch.no_grad()
def predict(model: Model, images: Tensor, batch_size: int | None = None) -> Tensor:
    """Logits for verdicts, (N, C), always in fp32, even where the caller takes gradients under autocast.

    batch_size: images in one pass of the model; None: all images.
    """
    with torch.autocast(images.device.type, enabled=False), matmul_precision(images.device, "fp32"):
        parts = [model(images[rows]).float() for rows in filled(len(images), batch_size, images.device)]
    return torch.cat(parts)[: len(images)]


def fooled(logits: Tensor, labels: Tensor) -> Tensor:
    """Are the logits finite and the prediction wrong? (B, C), (B,) -> (B,). The argmax of NaN is the first class."""
    return (logits.argmax(dim=1) != labels) & logits.isfinite().all(dim=1)


def differentiate(model: Model, images: Tensor, score: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, C), their scores (B,), and the gradient of each score by the pixels of its image, (B, 3, H, W).

    The scores are summed, so images do not interact. The .grad of parameters does not change.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = model(images)
        scores = score(logits)
        (gradient,) = torch.autograd.grad(scores.sum(), images)
    return logits.detach(), scores.detach(), gradient


def with_gradients_in(precision: Precision, model: Model) -> Model:
    """Wrap the model: passes with a gradient run in the precision, all other passes in fp32."""

    def logits(images: Tensor) -> Tensor:
        differentiated = images.requires_grad and torch.is_grad_enabled()
        with autocast(images.device, precision if differentiated else "fp32"):
            return model(images)

    return logits if precision != "fp32" else model


def likeliest_wrong(model: Model, images: Tensor, labels: Tensor, rank: int, batch_size: int | None = None) -> Tensor:
    """The wrong class with the rank-th highest logit, (N, 3, H, W) -> (N,). Rank 1 is the likeliest wrong class."""
    others = predict(model, images, batch_size).scatter(1, labels[:, None], -torch.inf)
    return others.topk(rank, dim=1)[1][:, -1]
