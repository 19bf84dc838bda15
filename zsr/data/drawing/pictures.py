"""Pictures of the drawn world: a bright object on a dark ground, 8-bit RGB. NumPy, Pillow and bundled fonts only.

Objects are always bright on dark: with both polarities small ViTs stay near chance on objects.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from zsr.data.vocabulary import COLOURS, DARKS, PHOTOS

NOISE = 0.005  # the greatest standard deviation of pixel noise
STAMP = 96  # side of the masks that objects are cut from; an upright object fills half to two thirds of the side
SYMBOL_SIDE = 62  # the longer side of a symbol in its mask
WIDEST = 84  # the longer side of a letter is at most this long
ROOM = 2.0  # a shape spans [-1, 1] of the mask's [-ROOM, ROOM]
OVERSAMPLING = 2
PLACES = ((0.9, -np.pi / 15, -0.15, -0.1, -0.1), (1.3, np.pi / 15, 0.15, 0.1, 0.1))  # scale, turn, shear, shifts
TRAIN_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold",
    "DejaVuSerif", "DejaVuSerif-Bold", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
    "cmr10", "cmss10", "cmti10", "cmb10",
)  # fmt: skip
TEST_FONTS = ("DejaVuSerif-BoldItalic", "STIXGeneralBolIta", "cmtt10", "DejaVuSansMono-BoldOblique")
PHOTO_SPLIT = 0.62  # training pictures are cut from this left part of each photograph, test pictures from the rest


def _on_circle(n: int, radius: float = 1.0, phase: float = -90.0, centre=(0.0, 0.0)) -> list[tuple[float, float]]:
    angles = np.deg2rad(phase + 360 * np.arange(n) / n)
    return [(centre[0] + radius * np.cos(a), centre[1] + radius * np.sin(a)) for a in angles]


def _star() -> list[tuple[float, float]]:
    outer, inner = _on_circle(5, 1.05), _on_circle(5, 0.42, phase=-54)
    return [point for pair in zip(outer, inner) for point in pair]


def _heart() -> list[tuple[float, float]]:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return list(zip(np.sin(t) ** 3, -y / 15 - 0.1))


# Each shape is a list of polygons in [-1, 1]^2, y down, painted in turn: True adds, False cuts out.
OUTLINES = {
    "circle": [(True, _on_circle(48, 0.9))],
    "square": [(True, [(-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)])],
    "triangle": [(True, [(0, -0.95), (0.95, 0.8), (-0.95, 0.8)])],
    "star": [(True, _star())],
    "ring": [(True, _on_circle(48, 0.95)), (False, _on_circle(48, 0.52))],
    "cross": [(True, [(-0.3, -0.95), (0.3, -0.95), (0.3, 0.95), (-0.3, 0.95)]),
              (True, [(-0.95, -0.3), (0.95, -0.3), (0.95, 0.3), (-0.95, 0.3)])],
    "heart": [(True, _heart())],
    "crescent": [(True, _on_circle(48, 0.95)), (False, _on_circle(48, 0.8, centre=(0.5, -0.1)))],
    "arrow": [(True, [(-0.95, -0.25), (0.1, -0.25), (0.1, -0.8), (0.98, 0), (0.1, 0.8), (0.1, 0.25), (-0.95, 0.25)])],
    "house": [(True, [(-0.65, -0.1), (-0.95, -0.1), (0, -0.98), (0.95, -0.1), (0.65, -0.1), (0.65, 0.9), (-0.65, 0.9)]),
              (False, [(-0.2, 0.9), (-0.2, 0.3), (0.2, 0.3), (0.2, 0.9)])],
    "tree": [(True, [(0, -1), (0.6, -0.25), (-0.6, -0.25)]), (True, [(0, -0.6), (0.85, 0.5), (-0.85, 0.5)]),
             (True, [(-0.2, 0.4), (0.2, 0.4), (0.2, 1), (-0.2, 1)])],
    "fish": [(True, [(-0.95 * np.cos(a) - 0.05, 0.55 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 40)]),
             (True, [(0.6, 0), (1.05, -0.6), (1.05, 0.6)])],
}  # fmt: skip


@cache
def shape_stamp(shape: str) -> np.ndarray:
    """The shape's mask, (STAMP, STAMP) uint8."""
    stamp = Image.new("L", (STAMP, STAMP))
    pen = ImageDraw.Draw(stamp)
    for adds, polygon in OUTLINES[shape]:
        pen.polygon([((1 + x / ROOM) * STAMP / 2, (1 + y / ROOM) * STAMP / 2) for x, y in polygon], fill=255 * adds)
    return np.asarray(stamp)


@cache
def glyph_stamp(character: str, font: str, stroke: int) -> np.ndarray:
    """The character's mask in a font bundled with Matplotlib, (STAMP, STAMP) uint8, centred.

    Strokes are widened by `stroke` pixels.
    """
    size = 90 if character.isdigit() else 76  # digits are narrow, and scans of digits fill their picture
    left, top, right, bottom = _face(font, size).getbbox(character)
    longer = max(right - left, bottom - top)
    side = min(longer, WIDEST) if character.isalnum() else SYMBOL_SIDE  # symbols of one font differ in size
    face = _face(font, round(size * side / longer))
    stamp = Image.new("L", (STAMP, STAMP))
    left, top, right, bottom = face.getbbox(character, stroke_width=stroke)
    corner = ((STAMP - left - right) / 2, (STAMP - top - bottom) / 2)
    ImageDraw.Draw(stamp).text(corner, character, font=face, fill=255, stroke_width=stroke)
    return np.asarray(stamp)


@cache
def _face(font: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def one_of(rng: np.random.Generator, words: Sequence[str]) -> str:
    """A random one of some words or names."""
    return words[int(rng.integers(len(words)))]


def place(rng: np.random.Generator, stamp: np.ndarray, side: int, bend: float = 0.0) -> np.ndarray:
    """The stamp in a random place: (side, side) floats in [0, 1].

    The stamp is scaled by .9-1.3, turned by up to 12 degrees, sheared by up to .15 and shifted by up to 10 %. With
    `bend` it is bent like handwriting: the nodes of a 3x3 grid move by up to this share of the stamp's side.
    """
    scale, turn, shear, right, down = rng.uniform(*PLACES)
    cos, sin = np.cos(turn) / scale, np.sin(turn) / scale  # the inverse of scale, turn and shear, from place to stamp
    along, weights = _grid(side)
    across = along - np.float32(right / 2)
    downwards = (along - np.float32(down / 2))[:, None]
    x = STAMP * (0.5 + (cos + shear * sin) * across + (sin - shear * cos) * downwards)
    y = STAMP * (0.5 - sin * across + cos * downwards)
    if bend:
        moved = weights @ rng.uniform(-bend * STAMP, bend * STAMP, (2, 4, 4)).astype(np.float32) @ weights.T
        x, y = x + moved[0], y + moved[1]
    rows, columns = (axis.clip(0, STAMP - 1).astype(np.int32) for axis in (y, x))
    fine = stamp.ravel()[rows * STAMP + columns].reshape(side, OVERSAMPLING, side, OVERSAMPLING)
    return np.einsum("aibj->ab", fine, dtype=np.float32) / np.float32(255 * OVERSAMPLING**2)


def coarse(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """The mask as a scan of 9 to 14 pixels a side shows it, at the size of the mask."""
    cells, side = int(rng.integers(9, 15)), len(mask)
    scan = Image.fromarray(mask).resize((cells, cells), Image.Resampling.BOX)
    return np.asarray(scan.resize((side, side), Image.Resampling.BICUBIC)).clip(0, 1)


@cache
def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """The fine pixels of one axis in [-.5, .5], and the weights of four equidistant nodes at each of these pixels."""
    n = side * OVERSAMPLING
    along = (np.arange(n, dtype=np.float32) + 0.5) / n - 0.5
    return along, np.maximum(0, 1 - abs(3 * (along[:, None] + 0.5) - np.arange(4, dtype=np.float32)))


@cache
def _photograph(name: str) -> np.ndarray:
    from sklearn.datasets import load_sample_image

    return load_sample_image(name)


def photo_crop(rng: np.random.Generator, name: str, side: int, split: str) -> np.ndarray:
    """A random crop of a scikit-learn photograph, (side, side, 3) in [0, 1], from the part for the split."""
    photo = _photograph(name)
    border = int(photo.shape[1] * PHOTO_SPLIT)
    part = photo[:, :border] if split == "train" else photo[:, border:]
    size = int(rng.integers(60, 180))
    top, left = rng.integers(0, part.shape[0] - size), rng.integers(0, part.shape[1] - size)
    crop = Image.fromarray(part[top : top + size, left : left + size])
    return np.asarray(crop.resize((side, side), Image.Resampling.BOX), np.float32) / 255


def background(rng: np.random.Generator, side: int, split: str) -> np.ndarray:
    """A dark ground, (side, side, 3): plain in 60 %, a faint pattern in 20 %, a dimmed photo in 20 % of the cases."""
    kind = rng.random()
    if kind >= 0.8:
        return 0.4 * photo_crop(rng, one_of(rng, tuple(PHOTOS)), side, split)
    ground = np.full((side, side, 3), DARKS[one_of(rng, tuple(DARKS))], np.float32)
    return ground if kind < 0.6 else ground + 0.14 * stripes(rng, side)[..., None]


def picture(rng: np.random.Generator, mask: np.ndarray, colour: str, split: str) -> np.ndarray:
    """An object of one colour before a random ground, (side, side, 3) uint8."""
    ground = background(rng, len(mask), split)
    paint = np.asarray(COLOURS[colour], np.float32) * np.float32(rng.uniform(0.9, 1.05))
    return finish(rng, ground * (1 - mask[..., None]) + paint * mask[..., None])


def finish(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The image with sensor noise of a standard deviation up to NOISE, rounded to 8 bits."""
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(255 * rng.uniform(0, NOISE))
    return np.clip(255 * image + noise + 0.5, 0, 255).astype(np.uint8)


def _waves(rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Two perpendicular phases over the picture, in periods.

    The period is 6 to 10.5 px for a picture of 24 px; shorter periods alias.
    """
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 10.5) * side / 24
    y, x = np.mgrid[:side, :side] / period
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return u + rng.random(), v + rng.random()


def stripes(rng: np.random.Generator, side: int) -> np.ndarray:
    """Soft stripes, (side, side) in [0, 1]."""
    u, _ = _waves(rng, side)
    return (0.5 + 0.5 * np.sin(2 * np.pi * u)).astype(np.float32)


def texture(rng: np.random.Generator, kind: str, side: int) -> tuple[np.ndarray, str]:
    """A full-picture texture of two colours, (side, side, 3) uint8, and the colours' name in captions."""
    u, v = _waves(rng, side)
    if kind == "striped":
        mix = (np.sin(2 * np.pi * u) > 0).astype(float)
    elif kind == "dotted":
        mix = ((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.33**2).astype(float)
    elif kind == "checkered":
        mix = (np.sin(np.pi * u) * np.sin(np.pi * v) > 0).astype(float)
    elif kind == "noisy":
        mix = rng.random((side, side))
    else:
        mix = (u - u.min()) / np.ptp(u)
    first, second = (str(name) for name in rng.choice(list(COLOURS), 2, replace=False))
    dark = rng.uniform(0.4, 0.7)  # the second colour is dimmed, so that the pattern is visible for all hues
    image = mix[..., None] * COLOURS[first] + (1 - mix[..., None]) * dark * np.asarray(COLOURS[second], np.float32)
    return finish(rng, image), f"{first} and {second}"
