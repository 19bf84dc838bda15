"""The captioned pictures that the tiny CLIP is pre-trained on."""

import numpy as np

from zsr.data.drawing.pictures import (
    TRAIN_FONTS,
    finish,
    photo_crop,
    picture,
    place,
    random_glyph,
    shape_stamp,
    texture,
    warp,
)
from zsr.data.vocabulary import COLOURS, DIGITS, LETTERS, PHOTOS, SHAPES, TEXTURES, Scene, captions, held_out_pairs

MIX = {"shape": 0.36, "digit": 0.26, "letter": 0.22, "texture": 0.11, "photo": 0.05}
WARP = 0.08  # how far glyphs are bent, as a share of their side: handwriting differs from fonts


def draw_pool(n: int, seed: int, image_size: int) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """n pictures, (n, side, side, 3) uint8, and eight true captions of each picture.

    The pictures show no test font, no test crop of a photograph and no held-out pair of colour and shape.
    """
    kinds = np.random.default_rng([seed, 0]).choice(list(MIX), n, p=list(MIX.values()))
    drawn = [_draw(np.random.default_rng([seed, 1, i]), str(kind), image_size) for i, kind in enumerate(kinds)]
    return np.stack([image for image, _ in drawn]), [captions(scene) for _, scene in drawn]


def _draw(rng: np.random.Generator, kind: str, side: int) -> tuple[np.ndarray, Scene]:
    if kind == "photo":
        name = str(rng.choice(list(PHOTOS)))
        return finish(rng, photo_crop(rng, name, side, "train")), Scene(PHOTOS[name], "", "")
    if kind == "texture":
        pattern = str(rng.choice(TEXTURES))
        image, colours = texture(rng, pattern, side)
        return image, Scene(f"{pattern} texture", colours, "")
    if kind == "shape":
        colour, shape = _seen_pair(rng)
        image, ground = picture(rng, place(rng, shape_stamp(shape), side), colour, "train")
        return image, Scene(shape, colour, ground)
    colour = str(rng.choice(list(COLOURS)))
    character, noun = _glyph(rng, kind)
    stamp = warp(rng, random_glyph(rng, character, TRAIN_FONTS), WARP)
    image, ground = picture(rng, place(rng, stamp, side), colour, "train")
    return image, Scene(noun, colour, ground)


def _seen_pair(rng: np.random.Generator) -> tuple[str, str]:
    held_out = held_out_pairs()
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in held_out]
    return pairs[rng.integers(len(pairs))]


def _glyph(rng: np.random.Generator, kind: str) -> tuple[str, str]:
    if kind == "letter":
        letter = str(rng.choice(LETTERS))
        return letter, f"letter {letter.lower()}"
    digit = int(rng.integers(10))
    return str(digit), f"{rng.choice(('digit', 'number'))} {DIGITS[digit]}"
