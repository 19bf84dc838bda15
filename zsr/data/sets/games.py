"""games: chess pieces and card suits. The source set shows nothing of the kind."""

from zsr.data.drawing.glyphs import GAME_PIECES, draw_glyphs
from zsr.data.prepared import Split


def make(split: str, n: int, seed: int, image_size: int) -> Split:
    """n pictures of the split, classes in turn, (n, image_size, image_size, 3) uint8."""
    return draw_glyphs("games", split, n, seed, image_size, GAME_PIECES)
