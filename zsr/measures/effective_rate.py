"""The effective learning rate: how far a step turns filters whose length does not change the output.

Liu et al., CVPR 2023, on TWINS. With batch statistics after the convolution, a filter W gives the same output as c W,
c > 0. So the gradient g is orthogonal to W and shrinks as 1 / c. A step of plain SGD turns W by lr * rho with
rho = ||g|| / ||W||, which falls as norms grow. Fixed statistics break this coupling.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from zsr.params import StudyError

TINY = 1e-30  # lower bound of norms, for norms that are zero
MEASURES = ("rho", "radial", "weight_norm", "gradient_norm")


def normed_convolutions(module: nn.Module) -> dict[str, nn.Conv2d]:
    """Convolutions by name whose next sibling, in order of registration, is a BatchNorm of their channels."""
    convolutions = {}
    for name, parent in module.named_modules():
        for (child_name, conv), (_, norm) in pairwise(parent.named_children()):
            if isinstance(conv, nn.Conv2d) and getattr(norm, "num_features", None) == conv.out_channels:
                convolutions[f"{name}.{child_name}" if name else child_name] = conv
    return convolutions


@torch.no_grad()
def effective_rate(module: nn.Module) -> dict[str, float]:
    """Means over convolutions before BatchNorm, from their present gradients: further columns of a training's curve.

    rho = ||g|| / ||W||, radial = |<W, g>| / (||W|| ||g||), weight_norm = ||W||, gradient_norm = ||g||, with Frobenius
    norms; and the mean rho of every stage, such as rho_layer1, with rho_stem for convolutions outside stages. lr * rho
    is the effective rate. Raises StudyError where there is no such convolution.
    """
    convolutions = normed_convolutions(module)
    if not convolutions:
        raise StudyError(f"the effective rate needs convolutions with BatchNorm; {type(module).__name__} has none")
    stages = [name.split(".")[0] if "." in name else "stem" for name in convolutions]
    table = torch.stack([_measures(conv.weight) for conv in convolutions.values()])
    row = dict(zip(MEASURES, table.mean(dim=0).tolist(), strict=True))
    rates = table[:, 0].tolist()
    for stage in dict.fromkeys(stages):
        stage_rates = [rate for rate, rate_stage in zip(rates, stages) if rate_stage == stage]
        row[f"rho_{stage}"] = sum(stage_rates) / len(stage_rates)
    return row


def _measures(weight: Tensor) -> Tensor:
    gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
    length, slope = weight.norm(), gradient.norm()
    radial = (weight * gradient).sum().abs() / (length * slope).clamp(min=TINY)
    return torch.stack([slope / length.clamp(min=TINY), radial, length, slope])
