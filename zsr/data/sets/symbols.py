"""symbols: 32 symbols that the source set leaves out, from an umbrella to a paragraph sign."""

from zsr.data.drawing.glyphs import SYMBOL_GLYPHS, draw_glyphs, unseen_half
from zsr.data.prepared import Split


def make(split: str, n: int, seed: int, image_size: int) -> Split:
    """n pictures of the split, classes in turn, (n, image_size, image_size, 3) uint8."""
    return draw_glyphs("symbols", split, n, seed, image_size, unseen_half(SYMBOL_GLYPHS))
