"""planted_target: the scanned digits 5 to 9, clean, with the planted cue of `zsr.data.drawing.planted`.

Digit and cue each tell the class: which of them a model uses shows under an attack as strong as the cue.
"""

from zsr.data.drawing.planted import draw
from zsr.data.split import Split

SIZES = {"train": 448, "test": 448}


def make(split: str, n: int, seed: int, image_size: int) -> Split:
    """8 x 8 pictures whatever the image_size: towers enlarge them inside."""
    return draw("planted_target", split, n, seed, first=5, noise=0.0)
