"""A tower that costs nothing: two layers of random weights, four classes."""

import torch
from torch import nn
from torch.nn import functional as F

from zsr.attacks.batch import Noise


class SmallTower(nn.Module):
    """Images (B, 3, side, side) to features of 8 numbers and logits of four classes, scale 20."""

    def __init__(self, side: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.first = torch.randn(3 * side * side, 32, generator=generator) / (3 * side * side) ** 0.5
        self.last = torch.randn(32, 8, generator=generator)
        self.text_embeddings = F.normalize(torch.randn(4, 8, generator=generator), dim=1)
        self.logit_scale = torch.tensor(20.0)

    def image_features(self, images):
        return ((images - 0.5).flatten(1) @ self.first * 4).tanh() @ self.last

    def classify(self, features):
        return self.logit_scale * F.normalize(features, dim=-1) @ self.text_embeddings.T

    def forward(self, images):
        return self.classify(self.image_features(images))


def drawn(n: int = 12, side: int = 8) -> torch.Tensor:
    """Smooth pictures in whole grey levels, (n, 3, side, side)."""
    generator = torch.Generator().manual_seed(6)
    coarse = torch.rand(n, 3, 4, 4, generator=generator)
    return (255 * F.interpolate(coarse, (side, side), mode="bilinear")).round() / 255


def noise_of(images: torch.Tensor) -> Noise:
    return Noise(0, "test", range(len(images)))
