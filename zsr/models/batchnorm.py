"""BatchNorm: it normalises by the statistics of the batch in training, and by running statistics otherwise."""

from typing import Literal

from torch import nn

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
Norm = nn.BatchNorm2d | nn.SyncBatchNorm


def has_norms(module: nn.Module) -> bool:
    """Does the module contain a BatchNorm?"""
    return any(isinstance(child, NORMS) for child in module.modules())


def normalise_by(visual: nn.Module, statistics: Literal["batch", "running statistics"]) -> None:
    """Put a tower with BatchNorm into train or eval mode. A tower without BatchNorm keeps its mode."""
    if has_norms(visual):
        visual.train(statistics == "batch")
