"""colours: the class is one of eight colours of a shape. An easy control, not a test of robustness."""

from zsr.data.drawing.drawn import draw
from zsr.data.drawing.pictures import picture, place, shape_stamp
from zsr.data.prepared import Split
from zsr.data.vocabulary import COLOURS, SHAPES


def make(split: str, n: int, seed: int, image_size: int) -> Split:
    """n pictures of the split, classes in turn, (n, image_size, image_size, 3) uint8."""

    def paint(rng, label):
        mask = place(rng, shape_stamp(str(rng.choice(SHAPES))), image_size)
        return picture(rng, mask, list(COLOURS)[label], split)[0]

    return draw("colours", split, n, seed, tuple(f"{colour} shape" for colour in COLOURS), paint)
