"""Room on the disk: looked at before a file is written, and reserved where the file grows in place."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zsr.params import StudyError

MARGIN = 2**20  # bytes that stay free, and a hundredth of the file
CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def free(folder: Path) -> int:
    """Bytes that are free below a folder; of the nearest folder above it, where the folder is not there yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_space(folder: Path, needed: int, purpose: str, advice: str = "make room") -> None:
    """Raises StudyError where a folder has not `needed` bytes free, and a margin. purpose: the subject of the line."""
    if needed > 0 and free(folder) < needed + needed // 100 + MARGIN:
        raise StudyError(
            f"{purpose} needs {_said(needed)} below {folder}, where {_said(free(folder))} are free: {advice}"
        )


@contextmanager
def writing(path: Path, needed: int = 0) -> Iterator[None]:
    """Turns what the file system refuses into one StudyError line, with the sizes where the disk is full."""
    try:
        yield
    except OSError as error:
        sizes = f"; it needs {_said(needed)}, and {_said(free(path.parent))} are free" if needed else ""
        raise StudyError(f"{path} cannot be written ({error.strerror or error}{sizes}): make room") from None


def reserve(descriptor: int, size: int) -> None:
    """Make an open file `size` bytes long, on the disk as well, so that a write into a memory map finds its place.

    Raises OSError where there is no room. Without a way to reserve, the file has holes.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            return os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in CANNOT_RESERVE:
            raise
    os.ftruncate(descriptor, size)


def _said(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"
