"""Lists in the form of Matlab: one small file with named arrays."""

import faulthandler
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zsr.data.outside import printable, words
from zsr.params import StudyError, require_plain

MOST_BYTES = 2**21  # the largest such file of the public sets has 0.6 MB
MOST_NUMBERS = 10**7  # of all arrays of a file, which are packed
LONGEST = 60  # seconds


def load(path: Path, *names: str) -> list[Any]:
    """The arrays of some names in a file: each as a list of its rows, a table as a dict of columns.

    Raises StudyError: the file is too large, or damaged, or has no such array.
    """
    import scipy.io  # noqa: F401  # before the fork

    require_plain(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        answer = json.loads(_apart(lambda: _read(path, names)) or '{"fault": "its reader has crashed"}')
        if "fault" in answer:
            raise ValueError(answer["fault"])
        return [answer["found"][name] for name in names]
    except Exception as error:  # of the file system, and of damaged answers
        reason = getattr(error, "strerror", None) or words(error)
        raise StudyError(f"{printable(path)} cannot be read ({reason}): fetch the set anew") from None


def _apart(work: Callable[[], str]) -> str:
    """What `work` returns, from a process of its own; "" if this process ends by a signal.

    The reader of SciPy, which is written in C, ends the whole process on some damaged files.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            faulthandler.disable()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # for the last words of C
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LONGEST)
            with os.fdopen(writer, "wb") as out:
                out.write(work().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        said = answer.read()
    return said.decode() if os.waitpid(pid, 0)[1] == 0 else ""


def _read(path: Path, names: tuple[str, ...]) -> str:
    """The arrays as JSON, or what is wrong with the file."""
    from scipy.io import loadmat, whosmat

    try:
        sizes = [np.prod(shape, dtype=float) for _, shape, _ in whosmat(path)]
        if sum(sizes) > MOST_NUMBERS:
            raise ValueError(f"it unpacks to more than {MOST_NUMBERS} numbers")
        found = loadmat(path, squeeze_me=True, variable_names=names)
        missing = [name for name in names if name not in found]
        if missing:
            raise ValueError(f"it has no {missing[0]}")
        return json.dumps({"found": {name: _plain(found[name]) for name in names}})
    except Exception as error:  # of the reader, of many types
        return json.dumps({"fault": getattr(error, "strerror", None) or words(error)})


def _plain(array: np.ndarray) -> Any:
    rows = np.atleast_1d(array)
    if rows.dtype.names:
        return {name: _plain(rows[name]) for name in rows.dtype.names}
    return [row.tolist() if isinstance(row, np.ndarray | np.generic) else row for row in rows]
