"""Images of files -> pixels as in the published tables: bilinear resizing, unlike CLIP's preprocessing."""

from typing import Literal

import numpy as np
from PIL import Image

MOST_PIXELS = 89_478_485  # Pillow's own limit; the largest image of the public sets has 61 million
SHORTER, CROP = 256, 224  # for natural images: the shorter side is resized to 256, then the central 224 are cut out


def to_pixels(image: Image.Image, group: Literal["small", "natural"], side: int, native: bool) -> np.ndarray:
    """(side, side, 3) uint8, bit for bit the pixels of torchvision's Resize, CenterCrop and ToTensor.

    natural: the shorter side is resized to side * 256 / 224, then the centre is cut out. small: the image is stretched
    to a square, or with native left at (H, W, 3). Greyscale, palette and transparent images become RGB first.
    """
    image = image.convert("RGB")
    if group == "natural":
        return np.array(_centre(_shorter_side(image, round(side * SHORTER / CROP)), side))
    return np.array(image if native else image.resize((side, side), Image.Resampling.BILINEAR))


def _shorter_side(image: Image.Image, to: int) -> Image.Image:
    width, height = image.size
    if width <= height:
        size = (to, int(to * height / width))
    else:
        size = (int(to * width / height), to)
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(f"an image of {width} x {height} pixels would become one of {size[0]} x {size[1]}")
    return image.resize(size, Image.Resampling.BILINEAR)


def _centre(image: Image.Image, side: int) -> Image.Image:
    left, top = (int(round((length - side) / 2)) for length in image.size)
    return image.crop((left, top, left + side, top + side))
