"""Per-image scores, (B,)."""

import torch
from torch import Tensor
from torch.nn import functional as F


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
