"""Scanned digits with a planted cue: a faint pattern that identifies the class as the digit does, but is not robust.

Class k of the source and class k of the target carry the same fixed pattern of signs, P_k. A model that has learnt to
use the pattern on the source finds the pattern again on the target. A picture is .15 + .7 scan + a P_k with a = 15/255;
an attack of eps = a removes the cue.
"""

from zlib import crc32

import numpy as np

from zsr.data.prepared import Split
from zsr.data.vocabulary import DIGITS, noun_phrase

SIDE, CLASSES = 8, 5
AMPLITUDE = 15  # a, in units of 1/255
PATTERNS = np.random.default_rng(2023).choice([-1, 1], (CLASSES, SIDE, SIDE))  # P_k for every class k
TRAIN = 448  # number of images of the train split; the other images are the test split


def draw(set_name: str, split: str, n: int, seed: int, first: int, noise: float) -> Split:
    """n of scikit-learn's scans of the digits `first` to `first` + 4, 8 x 8, grey in three channels, with the cue.

    noise: share of uniform noise that a scan is blended with. The choice of the scans for training depends on the seed.
    Ids are scikit-learn's row numbers. The noise of a picture depends on (seed, set, id) alone.
    """
    from sklearn.datasets import load_digits

    scans = load_digits()
    rows = np.flatnonzero((scans.target >= first) & (scans.target < first + CLASSES))
    rows = np.random.default_rng(seed).permutation(rows)
    ids = (rows[:TRAIN] if split == "train" else rows[TRAIN:])[:n]
    labels = scans.target[ids].astype(np.int64) - first
    images = [_picture(scans.images[i] / 16, noise, [seed, crc32(set_name.encode()), int(i)]) for i in ids]
    planted = np.stack(images) + AMPLITUDE * PATTERNS[labels]
    names = tuple(f"digit {name}" for name in DIGITS[first : first + CLASSES])
    rgb = planted.astype(np.uint8)[..., None].repeat(3, axis=-1)
    return Split(rgb, labels, ids, names, tuple(map(noun_phrase, names)))


def _picture(scan: np.ndarray, noise: float, key: list[int]) -> np.ndarray:
    """The picture of a scan in [0, 1] without the cue: whole numbers of 255, with room for the cue."""
    blend = (1 - noise) * scan + noise * np.random.default_rng(key).random(scan.shape)
    return np.rint(255 * (0.15 + 0.7 * blend)).astype(int)
