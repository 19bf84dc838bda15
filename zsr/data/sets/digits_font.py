"""digits_font: ten printed digits; the test split is set in fonts that no training saw."""

from zsr.data.drawing.glyphs import DIGIT_GLYPHS, draw_glyphs
from zsr.data.prepared import Split


def make(split: str, n: int, seed: int, image_size: int) -> Split:
    """n pictures of the split, classes in turn, (n, image_size, image_size, 3) uint8."""
    return draw_glyphs("digits_font", split, n, seed, image_size, DIGIT_GLYPHS)
