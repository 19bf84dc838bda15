"""Scores of single images, (B,), from logits."""

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-12  # keeps a ratio finite where logits tie


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
