"""letters: thirteen capitals that the source set leaves out; the test split is set in fonts that no training saw."""

from zsr.data.drawing.glyphs import LETTERS, draw_glyphs, unseen_half
from zsr.data.prepared import Split


def make(split: str, n: int, seed: int, image_size: int) -> Split:
    """n pictures of the split, classes in turn, (n, image_size, image_size, 3) uint8."""
    return draw_glyphs("letters", split, n, seed, image_size, unseen_half(LETTERS))
