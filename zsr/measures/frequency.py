"""An image as the sum of its low and its high spatial frequencies."""

import torch
from torch import Tensor


def bands(images: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Low and high band of images, (B, 3, H, W) each; the sum of the bands is the images.

    low = Re IFFT2(mask * FFT2(images)), where the mask keeps frequencies (u, v), in periods per image, of length up to
    `radius`. The bands do not stay in [0, 1]. The mean is in the low band.
    """
    low = torch.fft.ifft2(torch.fft.fft2(images) * _mask(images, radius)).real
    return low, images - low


def low_energy(images: Tensor, radius: float) -> Tensor:
    """Share of the energy (the sum of squares) of each image in the low band, (B,); the rest is in the high band."""
    power = torch.fft.fft2(images).abs().square()
    return (power * _mask(images, radius)).sum(dim=(1, 2, 3)) / power.sum(dim=(1, 2, 3))


def _mask(images: Tensor, radius: float) -> Tensor:
    rows, columns = (torch.fft.fftfreq(side, 1 / side, device=images.device) for side in images.shape[-2:])
    return (rows[:, None].square() + columns.square() <= radius**2).to(images.dtype)
