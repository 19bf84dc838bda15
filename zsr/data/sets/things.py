"""things: pictures of things that the source set leaves out, such as a snowman and an airplane."""

from zsr.data.drawing.glyphs import THING_GLYPHS, draw_glyphs, unseen_half
from zsr.data.prepared import Split


def make(split: str, n: int, seed: int, image_size: int) -> Split:
    """n pictures of the split, classes in turn, (n, image_size, image_size, 3) uint8."""
    return draw_glyphs("things", split, n, seed, image_size, unseen_half(THING_GLYPHS))
