"""Per-image scores, (B,)."""

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-12  # keeps a ratio finite where logits tie


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the label's logit is above the best other one, negative where another wins: (B, C), (B,) -> (B,)."""
    return _of(logits, labels) - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio, the same for a * logits + b: (B, C >= 3), (B,) -> (B,), from -1 up.

    Croce and Hein, ICML 2020, eq. 6: minus the margin, over the distance between the largest and the third logit.
    """
    values, classes = logits.topk(3, dim=1)
    first, second, third = values.unbind(1)
    other = torch.where(classes[:, 0] == labels, second, first)
    return (other - _of(logits, labels)) / (first - third + TINY)


def dlr_targeted(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """DLR towards one class each, (B, C >= 4), (B,), (B,) -> (B,). Croce and Hein, ICML 2020, eq. 7."""
    first, _, third, fourth = logits.topk(4, dim=1)[0].unbind(1)
    return (_of(logits, targets) - _of(logits, labels)) / (first - 0.5 * (third + fourth) + TINY)


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image: logits (B, C), labels (B,) int64 -> (B,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def symmetric_contrastive(logits: Tensor, labels: Tensor, duplicate_negatives: bool = True) -> Tensor:
    """CLIP's image-text loss within the batch, each image paired with its class prompt: (B, C), (B,) -> (B,).

    duplicate_negatives: images of one class are negatives of each other, so a batch in which a class comes m times
    cannot fall below ln(m) on it (quirk F1 of the published FT.py); False leaves those pairs out.
    """
    pairs = logits[:, labels]
    own = torch.arange(len(labels), device=labels.device)
    if not duplicate_negatives:
        same = (labels[:, None] == labels).fill_diagonal_(False)
        pairs = pairs.masked_fill(same, -torch.inf)
    return 0.5 * (cross_entropy(pairs, own) + cross_entropy(pairs.T, own))
