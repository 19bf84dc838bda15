"""Views of an image for defences that average over them: crops, coarse greys, JPEG, noise, filters, AugMix.

A function takes images (B, 3, H, W) in [0, 1] and returns views (B, V, 3, H, W) of the size of the images. A view
depends on its image and on random numbers of this image. `through` says which gradient a step has whose own gradient is
zero almost everywhere: with `unchanged` its own, with `zsr.defences._base.straight_through` that of the identity.
"""

import io
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from zsr.defences._base import Tower

Through = Callable[[Tensor, Tensor], Tensor]  # the input of a step and its output -> the output, with some gradient
GREYS = 255
SLACK = 1e-3  # grey levels; the sum of a pixel and a perturbation misses a whole grey level by less
RATIO = (3 / 4, 4 / 3)  # width over height of a crop
ATTEMPTS = 10  # to draw a box that lies in the image; then the crop is the whole image
PER_CROP = 2 * ATTEMPTS + 3  # random numbers of a crop: area and ratio of each attempt, the place, the mirror
CHAINS, DEPTH = 3, 3  # of AugMix: the number of chains, and of steps in the longest chain
PER_MIX = 2 * CHAINS + 1 + 2 * CHAINS * DEPTH  # random numbers of an AugMix: weights, lengths, the mix, steps


def unchanged(inputs: Tensor, values: Tensor) -> Tensor:
    """The values, with the gradient that they have."""
    return values


def unit_features(model: Tower, views: Tensor) -> Tensor:
    """Features of unit norm, (B, V, 3, H, W) -> (B, V, D)."""
    return F.normalize(model.image_features(views.flatten(0, 1)), dim=-1).unflatten(0, views.shape[:2])


# Crops


def crops(images: Tensor, uniform: Tensor, scale: float) -> Tensor:
    """Random boxes, enlarged to the size of the image (bilinear), each mirrored by chance: (B, V, 3, H, W).

    The boxes follow the law of torchvision's RandomResizedCrop. uniform: numbers on [-1, 1), (B, V, PER_CROP). scale:
    the smallest share of the image's area that a box may have; the largest is 1.
    """
    height, width = images.shape[-2:]
    draws = (uniform.to(images) + 1) / 2
    boxes = _boxes(draws[..., :-1], height, width, scale)
    mirrored = draws[..., -1] < 0.5
    rows, columns = (_places(start, length, size) for start, length, size in zip(boxes[:2], boxes[2:], (height, width)))
    columns = torch.where(mirrored[..., None], columns.flip(-1), columns)
    return _sampled(images, rows, columns)


def _boxes(draws: Tensor, height: int, width: int, scale: float) -> list[Tensor]:
    """Top, left, height and width of the boxes, in pixels, each (B, V). draws: on [0, 1), (B, V, 2 * ATTEMPTS + 2)."""
    shares, ratios = draws[..., :ATTEMPTS], draws[..., ATTEMPTS : 2 * ATTEMPTS]
    areas = height * width * (scale + (1 - scale) * shares)
    ratios = torch.exp(math.log(RATIO[0]) + math.log(RATIO[1] / RATIO[0]) * ratios)
    heights, widths = (areas / ratios).sqrt().round(), (areas * ratios).sqrt().round()
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    first = fits.int().argmax(dim=-1, keepdim=True)  # of equal values argmax takes the first
    whole = ~fits.any(dim=-1)
    tall, wide = (lengths.gather(-1, first).squeeze(-1) for lengths in (heights, widths))
    tall, wide = tall.masked_fill(whole, height), wide.masked_fill(whole, width)
    top = (draws[..., -2] * (height - tall + 1)).floor()
    left = (draws[..., -1] * (width - wide + 1)).floor()
    return [top, left, tall, wide]


def _places(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where the pixels of an enlarged box lie along one side of the image, in [-1, 1], (B, V, size).

    A place stays between the middles of the outer pixels of the box, so no pixel beside the box is read.
    """
    middles = (torch.arange(size).to(start) + 0.5) * length[..., None] / size - 0.5
    pixels = start[..., None] + middles.clamp(min=0).minimum(length[..., None] - 1)
    return (2 * pixels + 1) / size - 1


def _sampled(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels at these places, (B, V, H) and (B, V, W): (B, V, 3, H, W)."""
    n, views, height = rows.shape
    grid = torch.stack(torch.broadcast_tensors(columns[:, :, None, :], rows[:, :, :, None]), dim=-1)  # (B, V, H, W, 2)
    flat = F.grid_sample(
        images, grid.flatten(1, 2), mode="bilinear", padding_mode="border", align_corners=False
    )  # (B, 3, V * H, W)
    return flat.unflatten(2, (views, height)).transpose(1, 2)


# Coarse greys, JPEG, noise and filters


def whole_greys(images: Tensor, through: Through) -> Tensor:
    """Pixels cut to whole grey levels, as if the images were stored in 8 bits by truncation."""
    return through(images, (GREYS * images + SLACK).floor() / GREYS)


def coarse(images: Tensor, bits: int, wraps: bool, through: Through) -> Tensor:
    """Grey levels in steps of 256 / 2^bits, by floor, round and ceil: (B, 3, 3, H, W).

    wraps: white becomes 256, which overflows to black in 8 bits. Else white becomes 255.
    """
    step = 256 / 2**bits
    greys = GREYS * images / step
    slack = SLACK / step
    levels = [step * part for part in ((greys + slack).floor(), greys.round(), (greys - slack).ceil())]
    levels = [torch.where(level > GREYS, 0.0 if wraps else float(GREYS), level) for level in levels]
    return torch.stack([through(images, level / GREYS) for level in levels], dim=1)


def jpeg(images: Tensor, qualities: Sequence[int], through: Through) -> Tensor:
    """Images after compression to JPEG by Pillow, one view for each quality: (B, V, 3, H, W)."""
    pixels = (GREYS * images.detach()).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    views = [
        np.stack([_decompressed(image, quality) for image in pixels]) for quality in qualities
    ]  # each (B, H, W, 3)
    stacked = torch.from_numpy(np.stack(views, axis=1)).permute(0, 1, 4, 2, 3).to(images) / GREYS
    return torch.stack([through(images, view) for view in stacked.unbind(1)], dim=1)


def _decompressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def noisy(images: Tensor, normal: Tensor, sigma: float, through: Through) -> Tensor:
    """Images with Gaussian noise, in [0, 1], cut to whole grey levels. normal: standard normal, (B, V, 3, H, W)."""
    return whole_greys((images[:, None] + sigma * normal.to(images)).clamp(0, 1), through)


def filtered(images: Tensor, size: int, through: Through) -> Tensor:
    """The median, the mean and the Gaussian mean of size x size pixels, size odd: (B, 3, 3, H, W).

    The borders are OpenCV's: the median repeats the outer pixel, the means mirror the image about it. The sigma of the
    Gaussian is OpenCV's for the size.
    """
    side = size // 2
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    bell = torch.exp(-0.5 * ((torch.arange(size) - side) / sigma) ** 2).to(images)
    windows = F.pad(images, [side] * 4, mode="replicate").unfold(2, size, 1).unfold(3, size, 1).flatten(4)
    median = through(images, windows.median(dim=-1)[0])
    return torch.stack([median, _mean(images, torch.ones_like(bell)), _mean(images, bell)], dim=1)


def _mean(images: Tensor, weights: Tensor) -> Tensor:
    """The mean of each channel with the weights of rows and of columns, (K,)."""
    side, weights = len(weights) // 2, weights / weights.sum()
    kernel = (weights[:, None] * weights).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(images, [side] * 4, mode="reflect"), kernel, groups=3)


# AugMix, Hendrycks et al., ICLR 2020, at severity 1


def augmixed(views: Tensor, uniform: Tensor, through: Through) -> Tensor:
    """A random mix of each view with three chains of one to three weak augmentations: (B, V, 3, H, W).

    uniform: numbers on [-1, 1), (B, V, PER_MIX). Angles and distances are not rounded to whole degrees and pixels.
    """
    flat = views.flatten(0, 1)
    draws = (uniform.to(views).flatten(0, 1) + 1) / 2
    weights, lengths, mix, steps = draws.split([CHAINS, CHAINS, 1, 2 * CHAINS * DEPTH], dim=1)
    weights = F.normalize(-torch.log1p(-weights), p=1, dim=1)  # the Dirichlet law with all parameters 1
    chains = [
        _chain(flat, chain, (DEPTH * length).floor() + 1, through)
        for chain, length in zip(steps.unflatten(1, (CHAINS, DEPTH, 2)).unbind(1), lengths.unbind(1))
    ]
    mixed = sum(_wide(weight) * chain for weight, chain in zip(weights.unbind(1), chains))
    share = _wide(mix[:, 0])
    return (share * flat + (1 - share) * mixed).unflatten(0, views.shape[:2])


def _wide(per_view: Tensor) -> Tensor:
    return per_view[:, None, None, None]


def _chain(views: Tensor, steps: Tensor, length: Tensor, through: Through) -> Tensor:
    """The views (N, 3, H, W) after `length` augmentations, (N,). steps: on [0, 1), (N, DEPTH, 2)."""
    for place, (kind, level) in enumerate(step.unbind(1) for step in steps.unbind(1)):
        kinds = torch.where(place < length, (len(AUGMENTATIONS) * kind).floor(), -1)
        signed = 2 * level - 1  # a strength on [0.1, 1), over ten, of either sign
        strengths = signed.sign() * (0.1 + 0.9 * signed.abs()) / 10
        rows = [(kinds == number).nonzero().squeeze(1) for number in range(-1, len(AUGMENTATIONS))]
        parts = [views[rows[0]]]
        for augment, chosen in zip(AUGMENTATIONS, rows[1:]):
            if len(chosen):
                parts.append(augment(views[chosen], strengths[chosen], through))
        views = torch.cat(parts)[torch.cat(rows).argsort()]
    return views


def _autocontrast(images: Tensor, strengths: Tensor, through: Through) -> Tensor:
    low, high = (extreme(images, dim=(2, 3), keepdim=True) for extreme in (torch.amin, torch.amax))
    return torch.where(high > low, (images - low) / (high - low).clamp(min=SLACK / GREYS), images)


def _equalize(images: Tensor, strengths: Tensor, through: Through) -> Tensor:
    from torchvision.transforms.v2.functional import equalize

    greys = equalize((GREYS * images.detach()).round().byte())
    return through(images, greys.to(images) / GREYS)


def _posterize(images: Tensor, strengths: Tensor, through: Through) -> Tensor:
    """Four bits, at every strength of severity 1."""
    return through(images, 16 * ((GREYS * images + SLACK) / 16).floor() / GREYS)


def _solarize(images: Tensor, strengths: Tensor, through: Through) -> Tensor:
    return torch.where(images >= 1 - _wide(strengths.abs()), 1 - images, images)


def _rotate(images: Tensor, strengths: Tensor, through: Through) -> Tensor:
    angles = math.radians(30) * strengths
    ratio = images.shape[2] / images.shape[3]
    return _moved(images, angles.cos(), -angles.sin() * ratio, 0, angles.sin() / ratio, angles.cos(), 0)


def _shear_x(images: Tensor, strengths: Tensor, through: Through) -> Tensor:
    return _moved(images, 1, 0.3 * strengths, 0, 0, 1, 0)


def _shear_y(images: Tensor, strengths: Tensor, through: Through) -> Tensor:
    return _moved(images, 1, 0, 0, 0.3 * strengths, 1, 0)


def _translate_x(images: Tensor, strengths: Tensor, through: Through) -> Tensor:
    return _moved(images, 1, 0, 2 / 3 * strengths, 0, 1, 0)


def _translate_y(images: Tensor, strengths: Tensor, through: Through) -> Tensor:
    return _moved(images, 1, 0, 0, 0, 1, 2 / 3 * strengths)


def _moved(images: Tensor, *entries: float | Tensor) -> Tensor:
    """Images under an affine map about the middle, black outside. entries: of the 2 x 3 matrix, row by row."""
    rows = [torch.as_tensor(entry).to(images).expand(len(images)) for entry in entries]
    matrix = torch.stack(rows, dim=1).unflatten(1, (2, 3))
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


AUGMENTATIONS = (
    _autocontrast,
    _equalize,
    _posterize,
    _rotate,
    _solarize,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
)
