"""Passes through a model: the logits alone, or with a gradient to the pixels."""

from collections.abc import Callable

import torch
from torch import Tensor

from zsr.models.numerics import Precision, autocast, products

Model = Callable[[Tensor], Tensor]  # images (B, 3, H, W) in [0, 1] -> logits (B, C)


def filled(n: int, size: int | None, device: torch.device) -> list[Tensor]:
    """Images 0 ... n - 1 in batches of one size, hence in the same kernels; the last is filled up with its first."""
    batches = torch.arange(n, device=device).split(size or max(n, 1))
    return [torch.cat([rows, rows[:1].expand((size or n) - len(rows))]) for rows in batches]


@torch.no_grad()
def predict(model: Model, images: Tensor, batch_size: int | None = None) -> Tensor:
    """Logits that a verdict may rest on, (N, C): fp32, also where the caller takes gradients in autocast.

    batch_size: of the model's passes, all images by default.
    """
    with torch.autocast(images.device.type, enabled=False), products(images.device, "fp32"):
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
