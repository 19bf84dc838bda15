"""Two bands that are the image together and share its energy between them."""

import math

import pytest
import torch

from zsr.measures.frequency import bands, low_energy

SIZES = pytest.mark.parametrize("size", [(8, 8), (24, 24), (9, 13)])
RADII = pytest.mark.parametrize("radius", [0, 2, 3.5, 100])


@SIZES
@RADII
def test_s2_the_bands_are_the_image_and_share_its_energy(size, radius):
    images = torch.rand(3, 3, *size)
    low, high = bands(images, radius)
    assert low.shape == images.shape and low.dtype == images.dtype
    torch.testing.assert_close(low + high, images, rtol=0, atol=1e-5)
    energy, part, rest = (x.square().sum(dim=(1, 2, 3)) for x in (images, low, high))
    torch.testing.assert_close(part + rest, energy, rtol=1e-5, atol=0)
    torch.testing.assert_close(low_energy(images, radius), part / energy, rtol=1e-5, atol=1e-6)


@SIZES
def test_at_radius_0_the_low_band_is_the_mean_and_at_a_large_one_the_image(size):
    images = torch.rand(2, 3, *size)
    mean = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    torch.testing.assert_close(bands(images, 0)[0], mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(bands(images, sum(size))[0], images, rtol=0, atol=1e-5)


@SIZES
def test_bands_are_real_and_projections(size):
    """The mask is the same at (u, v) and at (-u, -v), so nothing is lost with the imaginary part."""
    images = torch.rand(2, 3, *size)
    low, high = bands(images, 3)
    torch.testing.assert_close(bands(low, 3)[0], low, rtol=0, atol=1e-5)
    assert bands(high, 3)[0].abs().max() < 1e-5
    assert (low * high).sum().abs() < 1e-3


@pytest.mark.parametrize("periods, radius, kept", [((3, 4), 5, 1), ((3, 4), 4.99, 0), ((0, 5), 5, 1), ((5, 1), 5, 0)])
def test_a_wave_is_in_the_band_of_its_frequency(periods, radius, kept):
    grid = torch.arange(24) / 24
    wave = torch.sin(2 * math.pi * (periods[0] * grid[:, None] + periods[1] * grid)).expand(1, 3, 24, 24)
    torch.testing.assert_close(bands(wave, radius)[0], kept * wave, rtol=0, atol=1e-5)
    assert low_energy(wave, radius).item() == pytest.approx(kept, abs=1e-5)


def test_images_and_channels_do_not_mix():
    images = torch.rand(2, 3, 8, 8)
    one = bands(images[1:, 2:], 2)[0]
    torch.testing.assert_close(bands(images, 2)[0][1:, 2:], one)
