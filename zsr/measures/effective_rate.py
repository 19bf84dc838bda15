"""How far a gradient turns filters whose length the output does not feel. Liu et al., CVPR 2023, on TWINS.

With batch statistics after it a filter W gives the same output as c W, c > 0: its gradient g is orthogonal to W and
shrinks as 1 / c. So a step of plain SGD turns W by lr * rho, rho = ||g|| / ||W||, which falls as norms grow. Fixed
statistics break this coupling.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from zsr.errors import StudyError

TINY = 1e-30  # of a norm that is zero
MEASURES = ("rho", "radial", "weight_norm", "gradient_norm")


def normed_convolutions(module: nn.Module) -> dict[str, nn.Conv2d]:
    """Convolutions whose next sibling, in order of registration, is a BatchNorm of their channels, by name."""
    found = {}
    for name, parent in module.named_modules():
        for (own, conv), (_, norm) in pairwise(parent.named_children()):
            if isinstance(conv, nn.Conv2d) and getattr(norm, "num_features", None) == conv.out_channels:
                found[f"{name}.{own}" if name else own] = conv
    return found


@torch.no_grad()
def effective_rate(module: nn.Module) -> dict[str, float]:
    """Means over convolutions before BatchNorm of what their gradients are now, more columns of a training's curve.

    rho = ||g|| / ||W||, radial = |<W, g>| / (||W|| ||g||), weight_norm = ||W||, gradient_norm = ||g||, Frobenius, and
    the mean rho of every stage, such as rho_layer1, stem for what is in none. Times lr, rho is the effective rate.
    Raises StudyError where there is no such convolution.
    """
    convolutions = normed_convolutions(module)
    if not convolutions:
        raise StudyError(f"the effective rate needs convolutions with BatchNorm; {type(module).__name__} has none")
    stages = [name.split(".")[0] if "." in name else "stem" for name in convolutions]
    table = torch.stack([_measures(conv.weight) for conv in convolutions.values()])
    row = dict(zip(MEASURES, table.mean(dim=0).tolist(), strict=True))
    rates = table[:, 0].tolist()
    for stage in dict.fromkeys(stages):
        own = [rate for rate, of in zip(rates, stages) if of == stage]
        row[f"rho_{stage}"] = sum(own) / len(own)
    return row


def _measures(weight: Tensor) -> Tensor:
    gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
    length, slope = weight.norm(), gradient.norm()
    radial = (weight * gradient).sum().abs() / (length * slope).clamp(min=TINY)
    return torch.stack([slope / length.clamp(min=TINY), radial, length, slope])
