"""Tar archives from outside, member by member: headers are bounded before they are read, damage is never the end.

Python's reader takes the headers of long names and of further facts into memory in whatever size they state, follows
a negative size backwards, and takes damage after the first member for the end of the archive.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from zsr.params import StudyError, require_plain

HEADER_BYTES = 2**16  # of one header with a long name or further facts
HEADERS_BYTES = 2**26  # of all such headers of an archive
PADDING_BYTES = 2**26  # after the mark of the end
MAGIC_AT = 257  # offset of the word "ustar" in the header of a member
LONG = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)


class BadArchive(StudyError):
    """An archive that is damaged, or holds what no archive of a set holds."""


def members(archive: Path, mode: Literal["r:", "r:*"] = "r:*") -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members of a tar archive in their order, each with the open archive. mode: "r:" allows no compression.

    Raises BadArchive that names the archive, and the member before the place that is at fault; exceptions of `tarfile`
    and of decompressors where the archive is no tar file, or damaged.
    """
    require_plain(archive)
    last, end, kind = "", -1, _bounded(archive)
    with tarfile.open(archive, mode, tarinfo=kind) as tar:
        while info := tar.next():
            if info.size < 0 or tar.offset <= end:
                raise BadArchive(f"{archive} is damaged at {info.name!a}: its size is below 0")
            last, end = info.name, tar.offset
            tar.members.clear()  # type: ignore[attr-defined]  # the reader would keep all of them
            yield tar, info
        if kind.block.strip(b"\0"):
            raise BadArchive(f"{archive} is damaged after {last!a}, at byte {tar.offset}: fetch it anew")
        _read_to_the_end(archive, tar)


def _read_to_the_end(archive: Path, tar: tarfile.TarFile) -> None:
    """Read what follows the mark of the archive's end, since a compressed file has its checksum behind all bytes.

    Where a file system has left zeros in the place of a header, the mark of the end is none, and members follow.
    """
    assert tar.fileobj is not None
    for _ in range(PADDING_BYTES // 2**20 + 1):
        more = tar.fileobj.read(2**20)
        if not more:
            return
        starts = range(MAGIC_AT, len(more), tarfile.BLOCKSIZE)
        if any(more.startswith(b"ustar", start) for start in starts):
            raise BadArchive(f"{archive} is damaged: members follow the mark of its end: fetch it anew")
    raise BadArchive(f"{archive} goes on for {PADDING_BYTES} bytes after its end: it is refused as an archive bomb")


class _Bounded(tarfile.TarInfo):
    """A member whose header is looked at before the header is followed.

    Attributes:
        archive: the archive.
        block: the block that was read last as a header.
        total: bytes of all headers with long names and further facts.
    """

    archive: Path
    block = b""
    total = 0

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Bounded":
        """The member in a block. Raises BadArchive where the header states too large a size."""
        cls.block = bytes(buf)
        info = super().frombuf(buf, encoding, errors)
        if info.type in LONG:
            cls.total += info.size
            if not 0 <= info.size <= HEADER_BYTES or cls.total > HEADERS_BYTES:
                raise BadArchive(
                    f"{cls.archive} states a header of {info.size} bytes at {info.name!a}, {cls.total} in all, where "
                    f"{HEADER_BYTES} and {HEADERS_BYTES} are read at most: it is refused as an archive bomb"
                )
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise _with_holes(cls.archive, info.name)
        return info

    def _proc_gnusparse_10(self, next: tarfile.TarInfo, *_: object) -> None:
        raise _with_holes(self.archive, next.name)  # the list of holes lies in the archive, in any size


def _bounded(archive: Path) -> type[_Bounded]:
    """The class of one archive's members, which keeps the sums of the archive."""
    return type("_Bounded", (_Bounded,), {"archive": archive})


def _with_holes(archive: Path, name: str) -> BadArchive:
    return BadArchive(f"{archive} holds {name!a}, a link or special file: it is refused")
