"""digits_real: scikit-learn's 1797 scanned digits (UCI optical recognition, test part), never seen in any training.

Each 8x8 scan is enlarged to 19/24 of the picture (bicubic), white on black, and centred.
"""

import numpy as np
from PIL import Image

from zsr.data.prepared import Split
from zsr.data.vocabulary import DIGITS, noun_phrase

SIZES = {"train": 0, "test": 1797}


def make(split: str, n: int, seed: int, image_size: int) -> Split:
    """n random scans; a larger n contains the same scans. Ids are scikit-learn's row numbers."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    ids = np.random.default_rng(seed).permutation(len(scans.target))[:n]
    images = np.stack([_enlarge(scans.images[i], image_size) for i in ids])
    names = tuple(f"digit {name}" for name in DIGITS)
    return Split(images, scans.target[ids].astype(np.int64), ids, names, tuple(map(noun_phrase, names)))


def _enlarge(scan: np.ndarray, side: int) -> np.ndarray:
    """(8, 8) floats in [0, 16] to (side, side, 3) uint8."""
    inner = round(side * 19 / 24)
    grey = Image.fromarray((scan * 255 / 16).round().astype(np.uint8)).resize((inner, inner), Image.Resampling.BICUBIC)
    canvas = Image.new("L", (side, side))
    canvas.paste(grey, ((side - inner) // 2, (side - inner) // 2))
    return np.asarray(canvas.convert("RGB"))
