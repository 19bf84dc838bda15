"""shapes: twelve shapes in bright colours, from a circle to a fish."""

from zsr.data.drawing.drawn import draw
from zsr.data.drawing.pictures import one_of, picture, place, shape_stamp
from zsr.data.prepared import Split
from zsr.data.vocabulary import COLOURS, SHAPES


def make(split: str, n: int, seed: int, image_size: int) -> Split:
    """n pictures of the split, classes in turn, (n, image_size, image_size, 3) uint8."""

    def paint(rng, label):
        mask = place(rng, shape_stamp(SHAPES[label]), image_size)
        return picture(rng, mask, one_of(rng, tuple(COLOURS)), split)

    return draw("shapes", split, n, seed, SHAPES, paint)
