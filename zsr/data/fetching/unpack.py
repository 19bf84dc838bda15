"""Archives are unpacked with suspicion: every member must stay inside the target folder, or nothing is unpacked."""

import gzip
import secrets
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from zsr.data import tars
from zsr.data.outside import printable
from zsr.data.tars import BadArchive
from zsr.files import require_space, writing
from zsr.params import StudyError

Kind = Literal["tar", "zip", "gz"]
Nature = Literal[  # the kind of a member
    "file",
    "folder",
    "a link or special file",
    "an encrypted file",
    "a file in a compression whose size in memory has no bound",
]
RATIO, FLOOR = 10, 64 * 2**20  # pictures hardly shrink, labels may; an archive bomb grows a thousandfold
MEMBERS = 2_000_000
NAME_LENGTH, PART_LENGTH = 1000, 255  # characters of a path; bytes of one name in it, as file systems have


@dataclass(frozen=True)
class Member:
    """One member of an archive.

    Attributes:
        name: the path in the archive.
        size: the announced size in bytes; 0 where no size is announced.
        kind: the kind of the member.
        open: opens the member for reading; None for all but a file.
    """

    name: str
    size: int
    kind: Nature
    open: Callable[[], IO[bytes] | gzip.GzipFile | None]


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """The result of unpacking.

    Attributes:
        files: number of files.
        bytes: size of all files.
    """

    files: int
    bytes: int


def extract(archive: Path, folder: Path, kind: Kind, limit: int = 0, members: int = MEMBERS) -> Unpacked:
    """Unpack into a folder that does not exist yet: all of an archive, or nothing.

    kind: "tar" may be compressed in any way; "gz" is one file, called like the archive without its ending. limit: bytes
    that may come out, by default ten times the archive and at least 64 MiB.
    members: number of members that may come out. Raises BadArchive that names the archive, and the member where one is
    at fault: a name outside the folder, a link or device, a name twice, too many bytes or members, a broken archive.
    Raises StudyError: the disk has no room; the folder is there.
    """
    if folder.exists():
        raise StudyError(f"{folder} is there already: move it away to unpack {archive.name}")
    require_space(folder.parent, archive.stat().st_size, f"unpacking {archive}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    try:
        limit = limit or max(RATIO * archive.stat().st_size, FLOOR)
        with writing(temporary):
            temporary.mkdir()
        unpacked = _write_all(archive, {"tar": _tar, "zip": _zip, "gz": _gz}[kind], temporary, limit, members)
        temporary.replace(folder)
        return unpacked
    except StudyError:
        raise
    except Exception as error:  # of the readers of archives, of many types
        raise BadArchive(f"{archive} cannot be unpacked as {kind}: {_reason(error)}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_all(archive: Path, read: Callable, folder: Path, limit: int, most: int) -> Unpacked:
    written, seen, folders = 0, set[PurePosixPath](), set[PurePosixPath]()
    with closing(read(archive)) as entries:
        for number, member in enumerate(entries, 1):
            if number > most:
                raise BadArchive(f"{archive} holds more than {most} members: it is refused as an archive bomb")
            path = _inside(archive, member)
            target = folder / path
            above = {*path.parents, path} if member.kind == "folder" else set(path.parents)
            if above & seen or member.kind == "file" and path in folders:
                raise BadArchive(f"{archive} holds {shown(member)}, and a file in the place of a folder: it is refused")
            folders |= above
            if member.kind == "folder":
                target.mkdir(parents=True, exist_ok=True)
                continue
            if path in seen:
                raise BadArchive(f"{archive} holds {shown(member)} twice: it is refused")
            seen.add(path)
            if member.size > limit - written:
                raise _too_much(archive, member, limit)
            target.parent.mkdir(parents=True, exist_ok=True)
            written += _copy(archive, member, target, limit - written)
    return Unpacked(files=len(seen), bytes=written)


def _inside(archive: Path, member: Member) -> PurePosixPath:
    """The path of a member below the folder. Raises StudyError where it leads out, or is no plain file or folder."""
    path = PurePosixPath(member.name)
    if not member.name.isprintable() or len(member.name) > NAME_LENGTH:
        raise BadArchive(f"{archive} holds {shown(member)}, a name that cannot be shown in a line: it is refused")
    if any(len(part.encode()) > PART_LENGTH for part in path.parts):
        raise BadArchive(f"{archive} holds {shown(member)}, a name that no file system takes: it is refused")
    drive = member.name[1:2] == ":"
    if path.is_absolute() or ".." in path.parts or drive or set(member.name) & {"\\", "\0"}:
        raise BadArchive(f"{archive} holds {shown(member)}, which leads out of its folder: it is refused")
    if member.kind not in ("file", "folder"):
        raise BadArchive(f"{archive} holds {shown(member)}, {member.kind}: it is refused")
    if member.kind == "file" and not path.parts:
        raise BadArchive(f"{archive} holds a file without a name: it is refused")
    return path


def shown(member: Member) -> str:
    """The name of a member for a message, in quotes and in ASCII."""
    return ascii(member.name[:NAME_LENGTH])


def _copy(archive: Path, member: Member, target: Path, room: int) -> int:
    """Write a member and return its size in bytes. Announced sizes are not trusted."""
    count = 0
    with writing(target, member.size), target.open("xb") as file:
        for chunk in _chunks(archive, member):
            count += len(chunk)
            if count > room:
                raise _too_much(archive, member, room)
            file.write(chunk)
    if count < member.size:
        raise BadArchive(f"{archive} holds {shown(member)} with {count} of its {member.size} bytes: it is cut short")
    return count


def _chunks(archive: Path, member: Member) -> Iterator[bytes]:
    try:
        source = member.open()
        assert source is not None, "only a file is copied"
        with source:
            while chunk := source.read(2**20):
                yield chunk
    except Exception as error:  # of the readers of archives, of many types
        raise BadArchive(f"{archive} is damaged at {shown(member)} ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return printable((str(error) or type(error).__name__).splitlines()[0])


def _too_much(archive: Path, member: Member, limit: int) -> BadArchive:
    return BadArchive(
        f"{archive} unpacks to more than {limit / 2**20:.0f} MiB, at {shown(member)}: it is refused as an archive bomb"
    )


def _tar(archive: Path) -> Iterator[Member]:
    for tar, info in tars.members(archive):
        plain: Nature = "file" if info.isreg() and not info.issparse() else "a link or special file"
        kind: Nature = "folder" if info.isdir() else plain
        member = Member(info.name, info.size, kind, partial(tar.extractfile, info))
        _inside(archive, member)
        if hasattr(tarfile, "data_filter"):  # Python's checks, which the oldest patch releases lack
            tarfile.data_filter(info, str(archive.parent))
        yield member


def _zip(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as whole:
        for info in whole.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)  # 0 where it was not written on Unix
            plain: Nature = "file" if mode in (0, stat.S_IFREG) else "a link or special file"
            kind: Nature = "folder" if info.is_dir() else plain
            if info.flag_bits & 1:
                kind = "an encrypted file"
            elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                kind = "a file in a compression whose size in memory has no bound"
            yield Member(info.filename, info.file_size, kind, partial(whole.open, info))


def _gz(archive: Path) -> Iterator[Member]:
    yield Member(archive.name.removesuffix(".gz"), 0, "file", lambda: gzip.open(archive))
