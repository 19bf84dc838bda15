"""combos: the classes are the 24 colour-shape pairs that neither pre-training nor the source set shows."""

from zsr.data.drawing.drawn import draw
from zsr.data.drawing.pictures import picture, place, shape_stamp
from zsr.data.prepared import Split
from zsr.data.vocabulary import held_out_pairs


def make(split: str, n: int, seed: int, image_size: int) -> Split:
    """n pictures of the split, classes in turn, (n, image_size, image_size, 3) uint8."""
    pairs = held_out_pairs()

    def paint(rng, label):
        colour, shape = pairs[label]
        return picture(rng, place(rng, shape_stamp(shape), image_size), colour, split)[0]

    return draw("combos", split, n, seed, tuple(f"{colour} {shape}" for colour, shape in pairs), paint)
