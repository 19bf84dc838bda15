"""Attention maps over patch tokens, and the distance between two of them at full image size without drawing it."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

FLAT = 1e-6  # a map whose similarities span less than this stays flat instead of dividing by zero


def text_guided_attention(tokens: Tensor, text: Tensor) -> Tensor:
    """How much each patch agrees with its image's class prompt: (B, 1+P, D), (B, D) -> (B, P) in [0, 1].

    TGA-ZSR (Yu et al., NeurIPS 2024), eq. 5, in the order of the published code: every channel is normalised
    over the 1+P tokens, CLS included (quirk G5), the patches' products with the text are taken, and min-max
    brings each image's map to [0, 1] before any resizing (quirk G6).
    """
    patches = F.normalize(tokens, dim=1)[:, 1:]
    similarity = torch.einsum("bpd,bd->bp", patches, text)
    low, high = similarity.amin(dim=1, keepdim=True), similarity.amax(dim=1, keepdim=True)
    return (similarity - low) / (high - low).clamp(min=FLAT)


def map_distance(maps: Tensor, others: Tensor, grid: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """l2 norm of the difference of two maps, each resized (bilinear) to the image: (B, P), (B, P) -> (B,).

    Resizing is a fixed linear map U, so the norm is sqrt(d' G d) with the Gram matrix G = U'U, P x P, computed
    once; no map of image size is made. The gradient at equal maps is zero.
    """
    factor = _gram_factor(tuple(grid), tuple(image_size)).to(maps)
    return ((maps - others) @ factor).norm(dim=1)


@cache
def _gram_factor(grid: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """Cholesky factor L of G, so that the norm of d L is that of U d."""
    basis = torch.eye(grid[0] * grid[1], dtype=torch.float64).view(-1, 1, *grid)
    resized = F.interpolate(basis, image_size, mode="bilinear", align_corners=False).flatten(1)
    return torch.linalg.cholesky(resized @ resized.T)
