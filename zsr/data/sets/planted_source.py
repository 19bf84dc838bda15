"""planted_source: the scanned digits 0 to 4 under 80 % noise, with the whole cue of `zsr.data.drawing.planted`.

A model that is pre-trained on this set has to rely on the cue.
"""

from zsr.data.drawing.planted import draw
from zsr.data.prepared import Split

SIZES = {"train": 448, "test": 453}


def make(split: str, n: int, seed: int, image_size: int) -> Split:
    """n pictures of the split. The pictures are 8 x 8 for every image_size; towers enlarge the pictures."""
    return draw("planted_source", split, n, seed, first=0, noise=0.8)
