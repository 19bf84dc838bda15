"""Characters of the drawn world, each with an English name: letters, Greek letters, symbols, games, digits."""

from dataclasses import dataclass

import numpy as np

from zsr.data.drawing.drawn import draw
from zsr.data.drawing.pictures import TEST_FONTS, TRAIN_FONTS, coarse, glyph_stamp, one_of, picture, place
from zsr.data.prepared import Split
from zsr.data.vocabulary import COLOURS, DIGITS, GAMES, GREEK, SIGNS, THINGS

BEND = 0.08  # how far characters are bent, as a share of their side: handwriting differs from fonts
COARSE = 0.4  # share of coarse pictures


@dataclass(frozen=True)
class Glyph:
    """One class of characters.

    Attributes:
        name: the class name, "letter a" or "umbrella".
        character: the character.
        train_fonts: fonts of training pictures, bundled with Matplotlib.
        test_fonts: fonts of test pictures, other fonts.
        widest: strokes are widened by 0 to this number of pixels of the stamp.
        written: do people write it by hand? Then training pictures are bent, and some are coarse like a scan.
    """

    name: str
    character: str
    train_fonts: tuple[str, ...]
    test_fonts: tuple[str, ...]
    widest: int
    written: bool

    def mask(self, rng: np.random.Generator, side: int, split: str) -> np.ndarray:
        """The character in a random place and in a random font of the split, (side, side) floats in [0, 1]."""
        fonts = self.train_fonts if split == "train" else self.test_fonts
        stamp = glyph_stamp(self.character, one_of(rng, fonts), int(rng.integers(0, self.widest + 1)))
        by_hand = self.written and split == "train"
        mask = place(rng, stamp, side, BEND if by_hand else 0)
        return coarse(rng, mask) if by_hand and rng.random() < COARSE else mask


def _with_greek(fonts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(font for font in fonts if not font.startswith("cm"))


def _symbol(name: str, character: str) -> Glyph:
    """A symbol. Only DejaVu Sans has all symbols; many symbols look the same in all its four styles."""
    train, test = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique"), ("DejaVuSans-BoldOblique",)
    return Glyph(name, character, train, test, 2, False)


LETTERS = tuple(Glyph(f"letter {c.lower()}", c, TRAIN_FONTS, TEST_FONTS, 4, True) for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
GREEK_LETTERS = tuple(
    Glyph(f"Greek letter {name}", c, _with_greek(TRAIN_FONTS), _with_greek(TEST_FONTS), 4, True)
    for name, c in GREEK.items()
)
THING_GLYPHS = tuple(_symbol(name, character) for name, character in THINGS.items())
SIGN_GLYPHS = tuple(_symbol(name, character) for name, character in SIGNS.items())
GAME_PIECES = tuple(_symbol(name, character) for name, character in GAMES.items())
DIGIT_GLYPHS = tuple(Glyph(f"digit {name}", str(i), TRAIN_FONTS, TEST_FONTS, 4, True) for i, name in enumerate(DIGITS))


def source_half(glyphs: tuple[Glyph, ...]) -> tuple[Glyph, ...]:
    """Every second glyph. The source set of fine-tuning shows these glyphs."""
    return glyphs[::2]


def unseen_half(glyphs: tuple[Glyph, ...]) -> tuple[Glyph, ...]:
    """The other glyphs. No fine-tuning shows them."""
    return glyphs[1::2]


def draw_glyphs(set_name: str, split: str, n: int, seed: int, image_size: int, glyphs: tuple[Glyph, ...]) -> Split:
    """n pictures of the glyphs, classes in turn, (n, image_size, image_size, 3) uint8."""

    def paint(rng: np.random.Generator, label: int) -> np.ndarray:
        mask = glyphs[label].mask(rng, image_size, split)
        return picture(rng, mask, one_of(rng, tuple(COLOURS)), split)

    return draw(set_name, split, n, seed, tuple(glyph.name for glyph in glyphs), paint)
