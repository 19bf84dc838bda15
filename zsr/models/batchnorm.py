"""Two normalisations over one set of convolutions: the wings of TWINS. Liu et al., CVPR 2023.

The adaptive wing is the tower's own BatchNorm. The frozen wing takes the statistics that the tower came with, as
constants, and maps what they normalise by a scale and shift of its own, which learn.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsr.errors import ParamError, StudyError
from zsr.models.numerics import HALF

Wing = Literal["adaptive", "frozen", "split"]  # split: the first half of a batch by the frozen wing, as published
Affine = Literal["separate", "shared"]  # does the frozen wing have a scale and shift of its own?
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


class DualBatchNorm2d(nn.Module):
    """A BatchNorm with a frozen twin, (B, C, H, W) -> (B, C, H, W). Computed in fp32 under autocast.

    norm: stays the adaptive wing, the same object; its running statistics become the frozen wing's constants.
    `eval()` brings back the adaptive wing. split: of B images the first B // 2 go to the frozen wing.
    """

    def __init__(self, norm: nn.Module, affine: Affine = "separate"):
        super().__init__()
        own = affine == "separate" and norm.affine
        self.adaptive, self.num_features, self.wing = norm, norm.num_features, "adaptive"
        self.register_buffer("frozen_mean", norm.running_mean.clone())
        self.register_buffer("frozen_var", norm.running_var.clone())
        self.frozen_weight = _copy(norm.weight) if own else None
        self.frozen_bias = _copy(norm.bias) if own else None
        self.train(norm.training)

    def train(self, mode: bool = True) -> "DualBatchNorm2d":
        if not mode:
            self.wing = "adaptive"
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        x = x.float() if x.dtype in HALF.values() else x
        if self.wing == "split":
            half = len(x) // 2
            return torch.cat([self._frozen(x[:half]), self.adaptive(x[half:])])
        return self._frozen(x) if self.wing == "frozen" else self.adaptive(x)

    def _frozen(self, x: Tensor) -> Tensor:
        affine = self.frozen_weight, self.frozen_bias
        if self.frozen_weight is None:
            affine = self.adaptive.weight, self.adaptive.bias
        return F.batch_norm(x, self.frozen_mean, self.frozen_var, *affine, eps=self.adaptive.eps)


def _copy(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone(), parameter.requires_grad)


def twinify(module: nn.Module, affine: Affine = "separate") -> None:
    """Give every BatchNorm2d and SyncBatchNorm inside a frozen twin, in place.

    Raises ParamError where there is none with running statistics: LayerNorm has no statistics to freeze, so both wings
    would be one.
    """
    if not _exchange(module, lambda child: DualBatchNorm2d(child, affine) if _has_statistics(child) else None):
        raise ParamError(
            f"TWINS needs a tower with BatchNorm, such as RN50; {type(module).__name__} has none to freeze"
        )


def export_plain(module: nn.Module) -> None:
    """Leave the adaptive wing alone, in place: the modules and the names of the state dict from before `twinify`."""
    _exchange(module, lambda child: child.adaptive if isinstance(child, DualBatchNorm2d) else None)


def set_wing(module: nn.Module, wing: Wing) -> None:
    """What every layer inside computes from now on, until it is said again or `eval()` is called.

    Raises StudyError where there is no such layer.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, DualBatchNorm2d)]
    if not layers:
        raise StudyError(f"{type(module).__name__} has no wings yet; call twinify, or the method's prepare, first")
    for layer in layers:
        layer.wing = wing


@contextmanager
def flying(module: nn.Module, wing: Wing) -> Iterator[None]:
    """One wing inside, the adaptive one after."""
    set_wing(module, wing)
    try:
        yield
    finally:
        set_wing(module, "adaptive")


def normalise_by(visual: nn.Module, statistics: Literal["batch", "running statistics"]) -> None:
    """Train or eval mode for a tower with BatchNorm; any other stays in its mode."""
    if any(isinstance(module, NORMS) for module in visual.modules()):
        visual.train(statistics == "batch")


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, NORMS) and module.running_mean is not None


def _exchange(module: nn.Module, other: Callable[[nn.Module], nn.Module | None]) -> int:
    """Put `other(child)`, where it is not None, in the place of modules inside, but for wings; returns how many."""
    exchanged = 0
    for name, child in list(module.named_children()):
        replacement = other(child)
        if replacement is not None:
            setattr(module, name, replacement)
        exchanged += replacement is not None
        if replacement is None and not isinstance(child, DualBatchNorm2d):
            exchanged += _exchange(child, other)
    return exchanged
