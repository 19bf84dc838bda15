"""letters: twelve capitals; the test split is set in fonts that pre-training never saw."""

from zsr.data.drawing.drawn import draw
from zsr.data.drawing.pictures import TEST_FONTS, TRAIN_FONTS, picture, place, random_glyph
from zsr.data.prepared import Split
from zsr.data.vocabulary import COLOURS, LETTERS


def make(split: str, n: int, seed: int, image_size: int) -> Split:
    """n pictures of the split, classes in turn, (n, image_size, image_size, 3) uint8."""
    fonts = TRAIN_FONTS if split == "train" else TEST_FONTS

    def paint(rng, label):
        mask = place(rng, random_glyph(rng, LETTERS[label], fonts), image_size)
        return picture(rng, mask, str(rng.choice(list(COLOURS))), split)[0]

    return draw("letters", split, n, seed, tuple(f"letter {c.lower()}" for c in LETTERS), paint)
