"""Drawn pictures as a data set."""

from collections.abc import Callable
from zlib import crc32

import numpy as np

from zsr.data.prepared import Split
from zsr.data.vocabulary import noun_phrase


def draw(
    set_name: str,
    split: str,
    n: int,
    seed: int,
    classnames: tuple[str, ...],
    paint: Callable[[np.random.Generator, int], np.ndarray],
) -> Split:
    """n drawn images, classes in turn.

    Image i depends on (seed, set, split, i) alone, so a larger n does not change the first images.
    """
    labels = np.arange(n) % len(classnames)
    images = []
    for i, label in enumerate(labels):
        rng = np.random.default_rng([seed, crc32(f"{set_name}/{split}".encode()), i])
        images.append(paint(rng, int(label)))
    return Split(np.stack(images), labels, np.arange(n), classnames, tuple(map(noun_phrase, classnames)))
