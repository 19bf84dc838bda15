"""An image as the sum of its low and its high spatial frequencies."""

import torch
from torch import Tensor


def bands(images: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Low and high band of images, (B, 3, H, W) each; together they are the images.

    low = Re IFFT2(mask * FFT2(images)), where the mask keeps frequencies (u, v), in periods per image, of length up to
    `radius`. Neither band stays in [0, 1]; the mean is in the low one.
    """
    low = torch.fft.ifft2(torch.fft.fft2(images) * _mask(images, radius)).real
    return low, images - low


def low_energy(images: Tensor, radius: float) -> Tensor:
    """Share of an image's energy, its summed squares, that is in the low band, (B,); the rest is in the high one."""
    power = torch.fft.fft2(images).abs().square()
    return (power * _mask(images, radius)).sum(dim=(1, 2, 3)) / power.sum(dim=(1, 2, 3))


def _mask(images: Tensor, radius: float) -> Tensor:
    rows, columns = (torch.fft.fftfreq(side, 1 / side, device=images.device) for side in images.shape[-2:])
    return (rows[:, None].square() + columns.square() <= radius**2).to(images.dtype)
