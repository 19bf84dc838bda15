"""textures: the class is one of five patterns over the whole picture, in two colours."""

from zsr.data.drawing.drawn import draw
from zsr.data.drawing.pictures import texture
from zsr.data.prepared import Split
from zsr.data.vocabulary import TEXTURES


def make(split: str, n: int, seed: int, image_size: int) -> Split:
    """n pictures of the split, classes in turn, (n, image_size, image_size, 3) uint8."""

    def paint(rng, label):
        return texture(rng, TEXTURES[label], image_size)[0]

    return draw("textures", split, n, seed, tuple(f"{kind} texture" for kind in TEXTURES), paint)
