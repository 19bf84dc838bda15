"""The download of one file over HTTP: resumed after a break, tried at every mirror, checked before the final rename."""

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from zsr.data.outside import printable
from zsr.files import claimed, require_space, write_atomic, write_json, writing
from zsr.params import StudyError, require_plain

AGENT = "zsr-fetch"
KEPT_BYTES = 2**20  # of a page that came in place of a file
MOST_DIGITS = 19  # of a size in bytes
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # status codes after which another try may succeed
ACCESS = dict.fromkeys((401, 403), ", no access: accept the terms of the host, and set HF_TOKEN where it is the Hub")
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
        rate: bytes a second that have to come on average over `window`; a slower mirror is left; 0: any rate will do.
        window: seconds over which the rate is measured, from the request on.
    """

    timeout: float = 30
    tries: int = 5
    pause: float = 1
    rate: float = 1000
    window: float = 60

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


class Answer:
    """The answer of a mirror, read in a thread of its own, so that no slowness of a mirror holds the caller.

    The thread of an answer that is left ends by itself, at the latest with the process.
    """

    def __init__(self, request: Request, patience: Patience) -> None:
        self._patience, self._came = patience, 0
        self._since = time.monotonic()
        self._parts: Queue = Queue(8)
        self._left = Event()
        Thread(target=self._read, args=(request,), daemon=True).start()

    def next(self) -> Any:
        """The response, then its bytes as they come, then b"". Raises what the request raised, and Refused if slow."""
        part = None
        while part is None:
            wait = self._since + self._patience.window - time.monotonic()
            try:
                part = self._parts.get(timeout=max(wait, 0.001) if self._patience.rate else None)
            except Empty:
                self._check_rate()
        if isinstance(part, Exception):
            raise part
        if isinstance(part, bytes):
            self._came += len(part)
            if part and time.monotonic() - self._since >= self._patience.window:
                self._check_rate()
        return part

    def leave(self) -> None:
        """Read no more."""
        self._left.set()

    def _check_rate(self) -> None:
        if self._came < self._patience.rate * self._patience.window:
            raise Refused(f"under {self._patience.rate:g} bytes a second over {self._patience.window:g} seconds")
        self._came, self._since = 0, time.monotonic()

    def _read(self, request: Request) -> None:
        try:
            with urlopen(request, timeout=self._patience.timeout) as response:
                self._put(response)
                while not self._left.is_set():
                    chunk = response.read1(
                        2**18
                    )  # bytes as they come: `read` would lose them where the rest never comes
                    self._put(chunk)
                    if not chunk:
                        break
        except (OSError, HTTPException) as error:
            self._put(error)
        except Exception as error:  # of the parser of addresses, to which a mirror may lead on
            self._put(HTTPException(f"an answer that cannot be followed ({type(error).__name__})"))

    def _put(self, part: Any) -> None:
        while not self._left.is_set():
            try:
                return self._parts.put(part, timeout=0.5)
            except Full:
                continue


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The expected size and hashes of a file.

    Attributes:
        size: the size in bytes; 0: the size is not checked.
        sha256: the hash in hexadecimal; "": the hash is not checked.
        md5: the hash in hexadecimal; "": the hash is not checked.
        git: the hash by which Git knows the content, in hexadecimal; "": the hash is not checked.
    """

    size: int = 0
    sha256: str = ""
    md5: str = ""
    git: str = ""

    def check(self, path: Path) -> Arrived:
        """Size and hashes of a file. Raises Refused where the file is not the expected file."""
        size, sha256, md5 = path.stat().st_size, hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        if self.size and size != self.size:
            raise Refused(f"wrong size, {size} bytes where {self.size} are expected{_page(path)}")
        if not self.has_hash and _page(path):
            raise Refused("content of another kind: it is an HTML page")
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                sha256.update(chunk)
                md5.update(chunk)
                if self.git:
                    git.update(chunk)
        values = {"sha256": sha256.hexdigest(), "md5": md5.hexdigest(), "git": git.hexdigest()}
        for kind, value in values.items():
            expected = getattr(self, kind)
            if expected and value != expected:
                raise Refused(f"wrong {kind}, {value} where {expected} is expected{_page(path)}")
        return Arrived(size=size, sha256=values["sha256"], md5=values["md5"])

    @property
    def has_hash(self) -> bool:
        """Is a hash known?"""
        return bool(self.sha256 or self.md5 or self.git)

    def require(self, path: Path) -> Arrived:
        """As `check`, for a file that a user put in place: raises StudyError."""
        try:
            return self.check(path)
        except Refused as error:
            raise StudyError(
                f"{path} has the {error}: put the right file there, or delete it, and fetch again"
            ) from None


@dataclass(frozen=True)
class _Order:
    """What is asked of every mirror of a file: the arguments of `download`."""

    expected: Expected
    patience: Patience
    watch: Watch
    token: str


def download(
    urls: Sequence[str],
    target: Path,
    expected: Expected = Expected(),
    patience: Patience = Patience(),
    watch: Watch = unwatched,
    token: str = "",
) -> Arrived:
    """Download the expected file to `target`, from the first mirror that gives the file.

    Bytes received so far stay in `<target>.part` after a kill or a broken connection. A whole file of a wrong hash
    stays in `<target>.refused`. As long as that file is there, its mirror is not asked again; if the expected hash is
    corrected, that file is taken. A second process that wants the same file waits for the first.

    Args:
        urls: the mirrors, the best first.
        target: where the file goes.
        expected: the size and hashes that the file must have.
        patience: the limits after which a mirror is given up.
        watch: called with the progress.
        token: a secret for the host of the mirror, which is sent to no host that the mirror leads on to.

    Raises:
        StudyError: no mirror gave the file; `target` is another file; the disk is full.
    """
    with claimed(target):
        _require_files(target)
        if target.exists():
            return expected.require(target)
        part, order, faults = _part_path(target), _Order(expected, patience, watch, token), []
        arrived, refused_by = _from_refused(part, expected)
        if arrived:
            return _placed(part, target, arrived)
        require_space(target.parent, expected.size - _size(part), target.name, "make room, or choose another --root")
        for url in urls:
            try:
                if url in refused_by:
                    raise Refused(f"{refused_by[url]}, which is kept as {_refused_path(part)}: delete it to ask again")
                return _placed(part, target, replace(_from_mirror(url, part, order), url=url))
            except Refused as error:
                faults.append(f"{url}: {error}")
    raise StudyError(
        f"{target.name} could not be downloaded ({printable('; '.join(faults)) or 'no address is known'}): fetch again "
        "to resume, or get the file elsewhere and give its folder with --from"
    )


def _require_files(target: Path) -> None:
    """Raise StudyError where a pipe or a device is in the place of a file that a download reads or writes."""
    for path in (target, _part_path(target), _refused_path(target)):
        require_plain(path)


def _part_path(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _placed(part: Path, target: Path, arrived: Arrived) -> Arrived:
    """Give a checked file its name, and delete the notes beside the file."""
    part.replace(target)
    for beside in (_origin_path(part), _refused_path(part), _refusals_path(part)):
        beside.unlink(missing_ok=True)
    return arrived


def put_aside(path: Path) -> Path:
    """Give a refused file another name, so that the file is never met again as the expected one."""
    aside = _refused_path(path)
    path.replace(aside)
    _origin_path(path).unlink(missing_ok=True)
    return aside


def _refused_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".part") + ".refused")


def _refusals_path(path: Path) -> Path:
    """The file that says which mirrors have sent a whole file of a wrong hash, and why it was refused."""
    return path.with_name(_refused_path(path).name + ".json")


def _refusals(part: Path) -> dict[str, str]:
    """The reason by mirror; none where the user has deleted the refused file, or the notes cannot be read."""
    stated = _noted(_refusals_path(part))
    return {str(url): str(reason) for url, reason in stated.items()} if _refused_path(part).exists() else {}


def _noted(path: Path) -> dict:
    """The notes in a JSON file; none where they cannot be read, since all they do is save a request."""
    try:
        require_plain(path)
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, StudyError):
        return {}
    return stated if isinstance(stated, dict) else {}


def _from_refused(part: Path, expected: Expected) -> tuple[Arrived | None, dict[str, str]]:
    """The facts of an earlier refused file, if it is the expected one by now, as the part; and what `_refusals` says.

    The registry may have been wrong, and be corrected since.
    """
    refusals = _refusals(part)
    if not refusals or not expected.has_hash:
        return None, {}
    try:
        arrived = expected.check(_refused_path(part))
    except Refused:
        return None, refusals
    _refused_path(part).replace(part)
    return arrived, {}


def _from_mirror(url: str, part: Path, order: _Order) -> Arrived:
    """Ask a mirror until the file is complete, and check the file; a wrong file is put aside. Raises Refused.

    The first bytes of a wrong file may come from another mirror or from an earlier run. Then the mirror is asked again.
    """
    begun = _size(part) > 0
    _transfer(url, part, order)
    try:
        return order.expected.check(part)
    except Refused as error:
        if not begun:
            raise Refused(_put_aside_whole(url, part, error)) from None
        part.unlink()
    return _from_mirror(url, part, order)


def _put_aside_whole(url: str, part: Path, error: Refused) -> str:
    """Put a whole wrong file aside, and note its mirror. A page is no file: it may be gone at the next try."""
    refusals = _refusals(part) | ({} if _page(part) else {url: f"sent a file of the {error}"})
    aside = put_aside(part)
    if refusals:
        write_json(_refusals_path(part), refusals)
    return f"{error}; what came is kept as {aside}"


def _transfer(url: str, part: Path, order: _Order) -> None:
    """Ask a mirror until all bytes are received. Received bytes stay on disk, also where Refused is raised."""
    idle, furthest, fault, size = 0, _size(part), "", order.expected.size
    while idle < order.patience.tries:
        order.patience.wait(idle)
        if size and _size(part) > size:
            part.unlink()
        if size and _size(part) == size:
            return
        try:
            if _receive(url, part, order):
                return
            fault = "the connection broke"
        except (OSError, HTTPException) as error:
            fault = _words(error)
        idle = 0 if _size(part) > furthest else idle + 1
        furthest = max(furthest, _size(part))
    raise Refused(f"{fault}, {order.patience.tries} times in a row")


@dataclass(frozen=True)
class Origin:
    """Where the bytes of a part come from, so that bytes of two files are never mixed.

    Attributes:
        url: the address.
        version: the strong ETag, else the time of the last change, as the server states it; "" where unknown.
        total: the size of the whole file; 0 where unknown.
    """

    url: str = ""
    version: str = ""
    total: int = 0


def _origin_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _origin(part: Path) -> Origin:
    """The origin of a part; of no known place, where nothing was written down, or nothing that can be read."""
    stated = _noted(_origin_path(part))
    try:
        return Origin(str(stated["url"]), str(stated["version"]), int(stated["total"]))
    except (ValueError, TypeError, KeyError, OverflowError):
        return Origin()


def _receive(url: str, part: Path, order: _Order) -> bool:
    """Ask once for the missing bytes, and return whether the file is complete.

    Bytes of an earlier answer are continued where they are of the same version of the same address, or where a hash
    tells in the end whether all bytes are of one file. Raises Refused where another try is pointless; OSError and
    others.
    """
    origin, size = _origin(part), order.expected.size
    if _size(part) and origin.url != url and not order.expected.has_hash:
        part.unlink()
    have = _size(part)
    answer = Answer(_request(url, have, origin, order.token), order.patience)
    try:
        response = answer.next()
        new = Origin(url, _version(response), _announced(response)[1])
        start = _announced(response)[0]
        if not _wanted(response, size):
            _keep_page(answer, part)
            raise Refused(_unlike(response, new.total, size) + f"; what came is kept as {_refused_path(part)}")
        same = origin.url != url or (new.version == origin.version and new.total == origin.total)
        if start not in (0, have) or (start and not same):
            part.unlink(missing_ok=True)
            return False
        if not start:
            write_json(_origin_path(part), asdict(new))
        return _append(answer, part, start, new.total or size, order.watch)
    except HTTPError as error:
        with error:
            if error.code == 416 and have:
                return _past_the_end(error.headers.get("Content-Range", ""), part)
            if error.code in TRANSIENT:
                raise OSError(f"HTTP {error.code}") from None
            raise Refused(f"HTTP {error.code}{ACCESS.get(error.code, '')}") from None
    finally:
        answer.leave()


def _request(url: str, have: int, origin: Origin, token: str) -> Request:
    """The request for the bytes from offset `have` on. Another host, to which a mirror leads on, gets no token."""
    request = Request(url, headers={"User-Agent": AGENT})
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    if have:
        request.add_header("Range", f"bytes={have}-")
        if origin.url == url and origin.version:
            request.add_header("If-Range", origin.version)
    return request


def _version(response: HTTPResponse) -> str:
    tag = response.headers.get("ETag", "")
    version = (tag if not tag.startswith("W/") else "") or response.headers.get("Last-Modified", "")
    return version if version.isprintable() else ""


def _wanted(response: HTTPResponse, size: int) -> bool:
    """Can the answer be the file? No set comes as an HTML page."""
    total = _announced(response)[1]
    return not (size and total and total != size) and response.headers.get_content_type() != "text/html"


def _unlike(response: HTTPResponse, total: int, size: int) -> str:
    if response.headers.get_content_type() == "text/html":
        return "an HTML page in place of the file"
    return f"wrong size, {total} bytes where {size} are expected"


def _keep_page(answer: Answer, part: Path) -> None:
    """Keep the first bytes of a refused answer, for a person to look at."""
    kept = b""
    try:
        while len(kept) < KEPT_BYTES and (chunk := answer.next()):
            kept += chunk
    except (Refused, OSError, HTTPException):
        pass  # what came suffices
    write_atomic(_refused_path(part), kept[:KEPT_BYTES])


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
        return _number(first, -1), _number(total, 0)
    return 0, _number(response.headers.get("Content-Length", ""), 0)


def _number(text: str, other: int) -> int:
    """The number in a header; `other` where there is none, or one of more digits than a size has."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < MOST_DIGITS else other


def _append(answer: Answer, part: Path, start: int, total: int, watch: Watch) -> bool:
    """Write the bytes of an answer to the part, from offset `start` on, and return whether the file is complete."""
    name, have = part.name.removesuffix(".part"), start
    require_space(part.parent, total - have, name, "make room, or choose another --root")
    with _opened(part, start) as file:
        watch(name, have, total)
        while chunk := answer.next():
            with writing(part, total):
                _write(file, chunk)
            have += len(chunk)
            if total and have > total:
                raise Refused(f"wrong size, more than the {total} bytes expected")
            watch(name, have, total)
        with writing(part, total):
            os.fsync(file.fileno())
    return have == total or not total


def _opened(part: Path, start: int) -> io.FileIO:
    way = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_APPEND if start else os.O_TRUNC)
    with writing(part):
        return io.FileIO(os.open(part, way, 0o666), "w")


def _write(file: io.FileIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _page(path: Path) -> str:
    """The end of a sentence about a file that is an HTML page; "" for another file."""
    with path.open("rb") as file:
        start = file.read(1000).lstrip().lower()
    return ": it is an HTML page" if start.startswith((b"<!doctype html", b"<html")) else ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(reason).__name__
