"""Images of files -> pixels as in the published tables: bilinear resizing, unlike CLIP's preprocessing."""

from typing import Literal

import numpy as np
from PIL import Image

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
    return image.resize(size, Image.Resampling.BILINEAR)


def _centre(image: Image.Image, side: int) -> Image.Image:
    left, top = (int(round((length - side) / 2)) for length in image.size)
    return image.crop((left, top, left + side, top + side))
