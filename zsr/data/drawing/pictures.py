"""Pictures of the drawn world: a bright object on a dark ground, 8-bit RGB. NumPy, Pillow and bundled fonts only.

Objects are always bright on dark: with both polarities small ViTs stay near chance on objects.
"""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from zsr.data.vocabulary import COLOURS, DARKS, PHOTOS, noun_phrase

STAMP = 96  # side of the masks that objects are cut from; an upright object fills half to two thirds of the side
ROOM = 2.0  # a shape spans [-1, 1] of the mask's [-ROOM, ROOM]
OVERSAMPLING = 2
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
def shape_stamp(shape: str) -> Image.Image:
    """The shape's mask, (STAMP, STAMP), 8-bit grey."""
    stamp = Image.new("L", (STAMP, STAMP))
    pen = ImageDraw.Draw(stamp)
    for adds, polygon in OUTLINES[shape]:
        pen.polygon([((1 + x / ROOM) * STAMP / 2, (1 + y / ROOM) * STAMP / 2) for x, y in polygon], fill=255 * adds)
    return stamp


@cache
def glyph_stamp(character: str, font: str, stroke: int) -> Image.Image:
    """The character's mask in a font bundled with Matplotlib, centred; strokes are widened by `stroke` pixels."""
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    size = 90 if character.isdigit() else 76  # digits are narrow, and scanned digits fill their picture
    face = ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
    stamp = Image.new("L", (STAMP, STAMP))
    left, top, right, bottom = face.getbbox(character, stroke_width=stroke)
    corner = ((STAMP - left - right) / 2, (STAMP - top - bottom) / 2)
    ImageDraw.Draw(stamp).text(corner, character, font=face, fill=255, stroke_width=stroke)
    return stamp


def random_glyph(rng: np.random.Generator, character: str, fonts: tuple[str, ...]) -> Image.Image:
    """The character's mask, (STAMP, STAMP), in a random font of `fonts`; strokes are widened by 0 to 4 pixels."""
    return glyph_stamp(character, str(rng.choice(fonts)), int(rng.integers(0, 5)))


def place(rng: np.random.Generator, stamp: Image.Image, side: int) -> np.ndarray:
    """The stamp in a random place: (side, side) floats in [0, 1].

    The stamp is scaled by .9-1.3, turned by up to 12 degrees, sheared by up to .15 and shifted by up to 10 %.
    """
    scale, angle = rng.uniform(0.9, 1.3), np.deg2rad(rng.uniform(-12, 12))
    shear, shift = rng.uniform(-0.15, 0.15), rng.uniform(-0.1, 0.1, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inverse = np.linalg.inv(scale * turn @ np.array([[1, shear], [0, 1]]))
    fine = side * OVERSAMPLING
    matrix = inverse * STAMP / fine
    offset = STAMP / 2 - matrix @ (fine / 2 * (1 + shift))
    data = (matrix[0, 0], matrix[0, 1], offset[0], matrix[1, 0], matrix[1, 1], offset[1])
    placed = stamp.transform((fine, fine), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
    return np.asarray(placed.reduce(OVERSAMPLING), np.float32) / 255


def warp(rng: np.random.Generator, stamp: Image.Image, amount: float) -> Image.Image:
    """The stamp bent like handwriting: the nodes of a 3x3 grid move by up to `amount` of its side."""
    nodes = np.linspace(0, STAMP, 4)
    moved = np.stack(np.meshgrid(nodes, nodes), -1) + rng.uniform(-amount, amount, (4, 4, 2)) * STAMP
    mesh = []
    for i in range(3):
        for j in range(3):
            box = (int(nodes[j]), int(nodes[i]), int(nodes[j + 1]), int(nodes[i + 1]))
            corners = (moved[i, j], moved[i + 1, j], moved[i + 1, j + 1], moved[i, j + 1])
            mesh.append((box, tuple(float(x) for corner in corners for x in corner)))
    return stamp.transform(stamp.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


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


def background(rng: np.random.Generator, side: int, split: str) -> tuple[np.ndarray, str]:
    """A dark ground, (side, side, 3), and the name of the ground in captions.

    The ground is plain in 60 %, has a faint pattern in 20 % and is a dimmed photo in 20 % of the cases.
    """
    kind = rng.random()
    if kind < 0.8:
        name = str(rng.choice(list(DARKS)))
        ground = np.broadcast_to(np.asarray(DARKS[name], np.float32), (side, side, 3))
        if kind < 0.6:
            return ground, f"a {name} background"
        return ground + 0.14 * stripes(rng, side)[..., None], "a patterned background"
    photo = str(rng.choice(list(PHOTOS)))
    return 0.4 * photo_crop(rng, photo, side, split), noun_phrase(f"photo of {noun_phrase(PHOTOS[photo])}")


def picture(rng: np.random.Generator, mask: np.ndarray, colour: str, split: str) -> tuple[np.ndarray, str]:
    """An object of one colour before a random ground: (side, side, 3) uint8, and the ground's name."""
    ground, name = background(rng, len(mask), split)
    paint = np.asarray(COLOURS[colour], np.float32) * rng.uniform(0.9, 1.05)
    return finish(rng, ground * (1 - mask[..., None]) + paint * mask[..., None]), name


def finish(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The image with sensor noise of a standard deviation up to .03, rounded to 8 bits."""
    noisy = image + rng.normal(0, rng.uniform(0, 0.03), image.shape)
    return (255 * noisy.clip(0, 1)).round().astype(np.uint8)


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
