"""planted_source: the scanned digits 0 to 4 under 80 % noise, with all of the cue of `zsr.data.drawing.planted`.

A model pre-trained on it has to rely on the cue.
"""

from zsr.data.drawing.planted import draw
from zsr.data.split import Split

SIZES = {"train": 448, "test": 453}


def make(split: str, n: int, seed: int, image_size: int) -> Split:
    """8 x 8 pictures whatever the image_size: towers enlarge them inside."""
    return draw("planted_source", split, n, seed, first=0, noise=0.8)
