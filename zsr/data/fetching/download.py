"""The download of one file over HTTP: resumed after a break, tried at every mirror, checked before the final rename."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from zsr.files import claimed, require_space
from zsr.params import StudyError

AGENT = "zsr-fetch"
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # status codes after which another try may succeed
Watch = Callable[[str, int, int], None]  # arguments: file name, bytes received, total bytes or 0 where unknown


def unwatched(name: str, have: int, total: int) -> None:
    """A Watch that shows no progress."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """The limits after which a mirror is given up.

    Attributes:
        timeout: seconds without a byte after which a try ends.
        tries: number of tries in a row that may bring no byte.
        pause: seconds before the second try; doubled before each further try.
    """

    timeout: float = 30
    tries: int = 5
    pause: float = 1

    def wait(self, idle: int) -> None:
        """Sleep before the next try. idle: number of tries in a row that have brought no byte."""
        time.sleep(self.pause * 2 ** (idle - 1) if idle else 0)


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """The facts of a file that was checked.

    Attributes:
        url: the mirror that sent the last part of the file; "" where the file was on disk before.
        size: the size in bytes.
        sha256: the hash in hexadecimal.
        md5: the hash in hexadecimal.
    """

    url: str = ""
    size: int
    sha256: str
    md5: str


class Refused(Exception):
    """The reason why a file is not the expected file, or why a mirror need not be asked again."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The expected size and hashes of a file.

    Attributes:
        size: the size in bytes; 0: the size is not checked.
        sha256: the hash in hexadecimal; "": the hash is not checked.
        md5: the hash in hexadecimal; "": the hash is not checked.
    """

    size: int = 0
    sha256: str = ""
    md5: str = ""

    def check(self, path: Path) -> Arrived:
        """Size and hashes of a file. Raises Refused where the file is not the expected file."""
        size, sha256, md5 = path.stat().st_size, hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        if self.size and size != self.size:
            raise Refused(f"wrong size, {size} bytes where {self.size} are expected")
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                sha256.update(chunk)
                md5.update(chunk)
        arrived = Arrived(size=size, sha256=sha256.hexdigest(), md5=md5.hexdigest())
        for kind in ("sha256", "md5"):
            expected, value = getattr(self, kind), getattr(arrived, kind)
            if expected and value != expected:
                raise Refused(f"wrong {kind}, {value} where {expected} is expected")
        return arrived

    def require(self, path: Path) -> Arrived:
        """As `check`, for a file that a user put in place: raises StudyError."""
        try:
            return self.check(path)
        except Refused as error:
            raise StudyError(
                f"{path} has the {error}: put the right file there, or delete it, and fetch again"
            ) from None


def download(
    urls: Sequence[str],
    target: Path,
    expected: Expected = Expected(),
    patience: Patience = Patience(),
    watch: Watch = unwatched,
) -> Arrived:
    """Download the expected file to `target`, from the first mirror that gives the file.

    The bytes received so far stay in `<target>.part` after a kill or a broken connection. A second process that wants
    the same file waits for the first. Raises StudyError: no mirror gave the file; `target` is another file; the disk is
    full.
    """
    with claimed(target):
        if target.exists():
            return expected.require(target)
        part = target.with_name(target.name + ".part")
        require_space(target.parent, expected.size - _size(part), target.name)
        faults = []
        for url in urls:
            try:
                arrived = _from_mirror(url, part, expected, patience, watch)
            except Refused as error:
                faults.append(f"{url}: {error}")
            else:
                part.replace(target)
                return replace(arrived, url=url)
    raise StudyError(
        f"{target.name} could not be downloaded ({'; '.join(faults) or 'no address is known'}): fetch again to resume, "
        "or get the file elsewhere and give its folder with --from"
    )


def _from_mirror(url: str, part: Path, expected: Expected, patience: Patience, watch: Watch) -> Arrived:
    """Ask a mirror until the file is complete, and check the file; a wrong file is deleted. Raises Refused.

    The first bytes of a wrong file may come from another mirror or from an earlier run. Then the mirror is asked again.
    """
    begun = _size(part) > 0
    _transfer(url, part, expected.size, patience, watch)
    try:
        return expected.check(part)
    except Refused:
        part.unlink()
        if not begun:
            raise
    return _from_mirror(url, part, expected, patience, watch)


def _transfer(url: str, part: Path, size: int, patience: Patience, watch: Watch) -> None:
    """Ask a mirror until all bytes are received. Received bytes stay on disk, also where Refused is raised."""
    idle, furthest, fault = 0, _size(part), ""
    while idle < patience.tries:
        patience.wait(idle)
        if size and _size(part) > size:
            part.unlink()
        if size and _size(part) == size:
            return
        try:
            if _receive(url, part, size, patience.timeout, watch):
                return
            fault = "the connection broke"
        except (OSError, HTTPException) as error:
            fault = _words(error)
        idle = 0 if _size(part) > furthest else idle + 1
        furthest = max(furthest, _size(part))
    raise Refused(f"{fault}, {patience.tries} times in a row")


def _receive(url: str, part: Path, size: int, timeout: float, watch: Watch) -> bool:
    """Ask once for the missing bytes, and return whether the file is complete.

    Raises Refused where another try is pointless; OSError and others.
    """
    have = _size(part)
    request = Request(url, headers={"User-Agent": AGENT} | ({"Range": f"bytes={have}-"} if have else {}))
    try:
        response = urlopen(request, timeout=timeout)
    except HTTPError as error:
        with error:
            if error.code == 416 and have:
                return _past_the_end(error.headers.get("Content-Range", ""), part)
            if error.code in TRANSIENT:
                raise OSError(f"HTTP {error.code}") from None
            raise Refused(f"HTTP {error.code}") from None
    with response:
        start, total = _announced(response)
        if size and total and total != size:
            raise Refused(f"wrong size, {total} bytes where {size} are expected")
        if start not in (0, have):
            part.unlink(missing_ok=True)
            return False
        return _append(response, part, start, total or size, watch)


def _past_the_end(content_range: str, part: Path) -> bool:
    """After status 416: is the part the whole file? Otherwise the part is longer than the server's file: delete it."""
    if content_range.rpartition("/")[2] == str(_size(part)):
        return True
    part.unlink()
    return False


def _announced(response: HTTPResponse) -> tuple[int, int]:
    """The offset of the first byte in the response, and the size of the whole file, 0 where unknown."""
    if response.status == 206:
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        first = span.partition("-")[0]
        return int(first) if first.isdecimal() else -1, int(total) if total.isdecimal() else 0
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else 0


def _append(response: HTTPResponse, part: Path, start: int, total: int, watch: Watch) -> bool:
    """Write the bytes of a response to the part, from offset `start` on, and return whether the file is complete."""
    name, have = part.name.removesuffix(".part"), start
    with part.open("ab" if start else "wb") as file:
        watch(name, have, total)
        while chunk := response.read1(2**18):  # bytes as they come: `read` would lose them where the rest never comes
            file.write(chunk)
            have += len(chunk)
            if total and have > total:
                raise Refused(f"wrong size, more than the {total} bytes expected")
            watch(name, have, total)
        file.flush()
        os.fsync(file.fileno())
    return have == total or not total


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(reason).__name__
