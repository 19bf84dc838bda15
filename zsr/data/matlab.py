"""Lists in the form of Matlab: one small file with named arrays."""

from pathlib import Path
from typing import Any

import numpy as np

from zsr.data.outside import printable, words
from zsr.params import StudyError, require_plain

MOST_BYTES = 2**21  # the largest such file of the public sets has 0.6 MB
MOST_NUMBERS = 10**7  # of all arrays of a file, which are packed


def load(path: Path, *names: str) -> list[Any]:
    """The arrays of some names in a file, each without axes of length 1.

    Raises StudyError: the file is too large, or damaged, or has no such array.
    """
    from scipy.io import loadmat, whosmat

    require_plain(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        shapes = {name: shape for name, shape, _ in whosmat(path)}
        if sum(int(np.prod(shape, dtype=float)) for shape in shapes.values()) > MOST_NUMBERS:
            raise ValueError(f"it unpacks to more than {MOST_NUMBERS} numbers")
        found = loadmat(path, squeeze_me=True, variable_names=names)
        missing = [name for name in names if name not in found]
        if missing:
            raise ValueError(f"it has no {missing[0]}")
        return [found[name] for name in names]
    except Exception as error:  # of the reader, of many types
        reason = getattr(error, "strerror", None) or words(error)
        raise StudyError(f"{printable(path)} cannot be read ({reason}): fetch the set anew") from None
