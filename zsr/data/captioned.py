"""The captioned pictures that the tiny CLIP is pre-trained on."""

import numpy as np

from zsr.data.drawing.glyphs import DIGIT_GLYPHS, GAME_PIECES, GREEK_LETTERS, LETTERS, SIGN_GLYPHS, THING_GLYPHS
from zsr.data.drawing.pictures import finish, one_of, photo_crop, picture, place, shape_stamp, texture
from zsr.data.vocabulary import COLOURS, PHOTOS, SHAPES, TEXTURES, Scene, captions

GLYPHS = {
    "letter": LETTERS,
    "greek": GREEK_LETTERS,
    "symbol": THING_GLYPHS + SIGN_GLYPHS,
    "game": GAME_PIECES,
    "digit": DIGIT_GLYPHS,
}
MIX = {
    "symbol": 0.29, "letter": 0.19, "digit": 0.20, "greek": 0.09, "game": 0.08, "shape": 0.09, "texture": 0.05,
    "photo": 0.01,
}  # fmt: skip


def draw_pool(n: int, seed: int, image_size: int) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """n pictures, (n, side, side, 3) uint8, and six true captions of each picture.

    The pictures show no test font and no test crop of a photograph.
    """
    kinds = np.random.default_rng([seed, 0]).choice(list(MIX), n, p=list(MIX.values()))
    drawn = [_draw(np.random.default_rng([seed, 1, i]), str(kind), image_size) for i, kind in enumerate(kinds)]
    return np.stack([image for image, _ in drawn]), [captions(scene) for _, scene in drawn]


def _draw(rng: np.random.Generator, kind: str, side: int) -> tuple[np.ndarray, Scene]:
    if kind == "photo":
        name = one_of(rng, tuple(PHOTOS))
        return finish(rng, photo_crop(rng, name, side, "train")), Scene(PHOTOS[name], "")
    if kind == "texture":
        pattern = one_of(rng, TEXTURES)
        image, colours = texture(rng, pattern, side)
        return image, Scene(f"{pattern} texture", colours)
    colour = one_of(rng, tuple(COLOURS))
    if kind == "shape":
        noun = one_of(rng, SHAPES)
        mask = place(rng, shape_stamp(noun), side)
    else:
        glyph = GLYPHS[kind][rng.integers(len(GLYPHS[kind]))]
        noun = glyph.name.replace("digit", one_of(rng, ("digit", "number")))
        mask = glyph.mask(rng, side, "train")
    return picture(rng, mask, colour, "train"), Scene(noun, colour)
