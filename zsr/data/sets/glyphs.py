"""glyphs: every second letter, Greek letter and symbol, the source set of fine-tuning."""

from zsr.data.drawing.glyphs import GREEK_LETTERS, LETTERS, SIGN_GLYPHS, THING_GLYPHS, draw_glyphs, source_half
from zsr.data.prepared import Split

CLASSES = tuple(g for kind in (LETTERS, GREEK_LETTERS, THING_GLYPHS, SIGN_GLYPHS) for g in source_half(kind))


def make(split: str, n: int, seed: int, image_size: int) -> Split:
    """n pictures of the split, classes in turn, (n, image_size, image_size, 3) uint8."""
    return draw_glyphs("glyphs", split, n, seed, image_size, CLASSES)
