"""Passes through a model: their batches, their gradient by the pixels, and the losses of single images."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from zsr.compute import Precision, autocast, matmul_precision

Model = Callable[[Tensor], Tensor]  # images (B, 3, H, W) in [0, 1] -> logits (B, C)
TINY = 1e-12  # keeps a ratio finite where logits tie


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


# Losses of single images, (B,), from logits


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The logit of the label minus the best other logit, negative where another class wins: (B, C), (B,) -> (B,)."""
    return _logits_of(logits, labels) - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio, invariant to a * logits + b: (B, C >= 3), (B,) -> (B,), at least -1.

    Croce and Hein, ICML 2020, eq. 6: minus the margin, over the distance between the largest and the third logit.
    """
    values, classes = logits.topk(3, dim=1)
    first, second, third = values.unbind(1)
    best_other = torch.where(classes[:, 0] == labels, second, first)
    return (best_other - _logits_of(logits, labels)) / (first - third + TINY)


def dlr_targeted(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """DLR towards a target class of each image, (B, C >= 4), (B,), (B,) -> (B,). Croce and Hein, ICML 2020, eq. 7."""
    first, _, third, fourth = logits.topk(4, dim=1)[0].unbind(1)
    return (_logits_of(logits, targets) - _logits_of(logits, labels)) / (first - 0.5 * (third + fourth) + TINY)


def _logits_of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image: logits (B, C), labels (B,) int64 -> (B,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def symmetric_contrastive(logits: Tensor, labels: Tensor, duplicate_negatives: bool = True) -> Tensor:
    """CLIP's image-text loss within the batch, each image paired with its class prompt: (B, C), (B,) -> (B,).

    duplicate_negatives: images of one class are negatives of each other, so the loss of a class that occurs m times in
    the batch cannot fall below ln(m) (quirk F1 of the published FT.py). False leaves those pairs out.
    """
    pairs = logits[:, labels]
    own_columns = torch.arange(len(labels), device=labels.device)
    if not duplicate_negatives:
        same = (labels[:, None] == labels).fill_diagonal_(False)
        pairs = pairs.masked_fill(same, -torch.inf)
    return 0.5 * (cross_entropy(pairs, own_columns) + cross_entropy(pairs.T, own_columns))
