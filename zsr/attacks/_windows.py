"""How large the squares of Square are, and which pixels they cover."""

import math

import torch
from torch import Tensor

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which a square's area is halved


def side(query: int, height: int, width: int, p_init: float) -> int:
    """Of the square at a query, in pixels: it starts at a share p_init of the image (section 3.3)."""
    area = p_init / 2 ** sum(query > end for end in HALVINGS)
    return min(max(round(math.sqrt(area * height * width)), 1), height, width)


def span(start: Tensor, size: Tensor, end: int) -> Tensor:
    """Places from start to start + size of 0 ... end, (R,), (R,) -> (R, end)."""
    place = torch.arange(end, device=start.device) - start[:, None]
    return (place >= 0) & (place < size[:, None])
