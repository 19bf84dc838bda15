"""BatchNorm, whose statistics are those of a batch in training, and running ones otherwise."""

from typing import Literal

from torch import nn

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
Norm = nn.BatchNorm2d | nn.SyncBatchNorm


def has_norms(module: nn.Module) -> bool:
    """Is there a BatchNorm inside?"""
    return any(isinstance(child, NORMS) for child in module.modules())


def normalise_by(visual: nn.Module, statistics: Literal["batch", "running statistics"]) -> None:
    """Train or eval mode for a tower with BatchNorm; any other stays in its mode."""
    if has_norms(visual):
        visual.train(statistics == "batch")
