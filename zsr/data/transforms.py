"""Images of files -> pixels as in the published tables: bilinear resizing, unlike CLIP's preprocessing."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

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


@dataclass(frozen=True)
class Resized:
    """N small images that are stored in their own size, and resized when they are read: (N, side, side, 3) uint8.

    As an array of NumPy does, a slice shares the stored images, and a list of rows gives a new array.

    Attributes:
        stored: (N, H, W, 3) uint8. An iterable with a shape suffices for iteration.
        group: as of `to_pixels`.
        side: side of the images in pixels.
    """

    stored: Any
    group: Literal["small", "natural"]
    side: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, side, side, 3)."""
        return (len(self.stored), self.side, self.side, 3)

    def __len__(self) -> int:
        return len(self.stored)

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self._pixels, self.stored)

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, slice):
            return replace(self, stored=self.stored[rows])
        chosen = self.stored[rows]
        if chosen.ndim == 3:
            return self._pixels(chosen)
        return np.stack(list(map(self._pixels, chosen))) if len(chosen) else np.empty((0, *self.shape[1:]), np.uint8)

    def _pixels(self, image: np.ndarray) -> np.ndarray:
        return to_pixels(Image.fromarray(image), self.group, self.side, native=False)


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
