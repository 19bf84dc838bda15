"""Passes through a model: where they are computed, in which numbers, and with a gradient to the pixels or without.

fp32: as it says, also on GPUs. tf32: fp32 numbers, products of 10-bit mantissas on GPUs that have them; fp32 on a CPU.
bf16, fp16: torch.autocast, and tf32 for what stays fp32 in it.
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
        device: auto: a GPU where there is one.
        compile: the image tower through torch.compile.
        channels_last: the memory format of weights and images of convolutions.
    """

    device: Literal["auto", "cpu", "cuda"]
    compile: bool = False
    channels_last: bool = False

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
def matmul_precision(device: torch.device, precision: Precision) -> Iterator[None]:
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


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """For a forward in bf16 or fp16; nothing where the precision is another."""
    return torch.autocast(device.type, HALF[precision]) if precision in HALF else nullcontext()


ON_CPU = Compute(device="cpu", compile=False, channels_last=False)


def filled(n: int, size: int | None, device: torch.device) -> list[Tensor]:
    """Images 0 ... n - 1 in batches of one size, hence in the same kernels; the last is filled up with its first."""
    batches = torch.arange(n, device=device).split(size or max(n, 1))
    return [torch.cat([rows, rows[:1].expand((size or n) - len(rows))]) for rows in batches]


@torch.no_grad()
def predict(model: Model, images: Tensor, batch_size: int | None = None) -> Tensor:
    """Logits that a verdict may rest on, (N, C): fp32, also where the caller takes gradients in autocast.

    batch_size: of the model's passes, all images by default.
    """
    with torch.autocast(images.device.type, enabled=False), matmul_precision(images.device, "fp32"):
        parts = [model(images[rows]).float() for rows in filled(len(images), batch_size, images.device)]
    return torch.cat(parts)[: len(images)]


def fooled(logits: Tensor, labels: Tensor) -> Tensor:
    """Is the answer finite and wrong? (B, C), (B,) -> (B,). NaN has an argmax too: the first class."""
    return (logits.argmax(dim=1) != labels) & logits.isfinite().all(dim=1)


def differentiate(model: Model, images: Tensor, score: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, C), their scores (B,), and the gradient of each score by its own image, (B, 3, H, W).

    The scores are summed, so images do not interact; no parameter's .grad is touched.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = model(images)
        scores = score(logits)
        (gradient,) = torch.autograd.grad(scores.sum(), images)
    return logits.detach(), scores.detach(), gradient


def with_gradients_in(precision: Precision, model: Model) -> Model:
    """The model, whose passes with a gradient run in the precision, and all others in fp32."""

    def logits(images: Tensor) -> Tensor:
        differentiated = images.requires_grad and torch.is_grad_enabled()
        with autocast(images.device, precision if differentiated else "fp32"):
            return model(images)

    return logits if precision != "fp32" else model


def likeliest_wrong(model: Model, images: Tensor, labels: Tensor, rank: int, batch_size: int | None = None) -> Tensor:
    """The wrong class with the rank-th highest logit; rank 1 is the likeliest: (N, 3, H, W) -> (N,)."""
    others = predict(model, images, batch_size).scatter(1, labels[:, None], -torch.inf)
    return others.topk(rank, dim=1)[1][:, -1]
