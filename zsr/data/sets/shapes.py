"""shapes: twelve shapes in bright colours, the source set of fine-tuning, without the held-out colour-shape pairs."""

from zsr.data.drawing.drawn import draw
from zsr.data.drawing.pictures import picture, place, shape_stamp
from zsr.data.prepared import Split
from zsr.data.vocabulary import COLOURS, SHAPES, held_out_pairs


def make(split: str, n: int, seed: int, image_size: int) -> Split:
    """n pictures of the split, classes in turn, (n, image_size, image_size, 3) uint8."""

    def paint(rng, label):
        seen = [colour for colour in COLOURS if (colour, SHAPES[label]) not in held_out_pairs()]
        mask = place(rng, shape_stamp(SHAPES[label]), image_size)
        return picture(rng, mask, str(rng.choice(seen)), split)[0]

    return draw("shapes", split, n, seed, SHAPES, paint)
