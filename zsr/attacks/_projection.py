"""The shortest l-infinity step within [0, 1] to a hyperplane. Croce and Hein, ICML 2020 (FAB), eq. 5."""

import torch
from torch import Tensor


def step_to_plane(points: Tensor, normals: Tensor, gaps: Tensor) -> Tensor:
    """Steps s, (B, d), smallest in l-infinity, with normals * s summing to -gaps, (B,), and points + s in [0, 1].

    Where the box does not reach the plane, the step to the corner nearest to it. A step moves every coordinate by
    min(reach, room), so it closes sum |w| min(reach, room) of the gap: concave and piecewise linear in the reach,
    hence Newton's method from 0 arrives from below after as many passes as it meets slopes, without a sort.
    """
    normals = torch.where(gaps < 0, -1.0, 1.0)[:, None] * normals
    gaps, weights = gaps.abs()[:, None], normals.abs()
    room = torch.where(normals < 0, 1 - points, points)
    reach = torch.zeros_like(gaps)
    while True:
        free = room > reach
        slope = (weights * free).sum(1, keepdim=True)
        closed = (weights * room * ~free).sum(1, keepdim=True)
        # Without a free coordinate there is no slope, and 0 / 0 would spoil the row while others go on.
        further = torch.where(slope > 0, (gaps - closed) / slope, torch.inf)
        if not (further > reach).any():  # also where a gradient is NaN
            return -normals.sign() * torch.minimum(reach, room)
        reach = further.maximum(reach)
