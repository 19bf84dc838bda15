"""planted_target: the scanned digits 5 to 9, clean, with the planted cue of `zsr.data.drawing.planted`.

The digit and the cue both identify the class. An attack as strong as the cue shows which of the two a model uses.
"""

from zsr.data.drawing.planted import draw
from zsr.data.prepared import Split

SIZES = {"train": 448, "test": 448}


def make(split: str, n: int, seed: int, image_size: int) -> Split:
    """n pictures of the split. The pictures are 8 x 8 for every image_size; towers enlarge the pictures."""
    return draw("planted_target", split, n, seed, first=5, noise=0.0)
