"""Cases of `zsr fetch`: archives that are not what they should be, and mirrors that misbehave."""

import gzip
import hashlib
import io
import json
import random
import socket
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

from tests.campaign import bad_bytes, forks
from tests.campaign.pictures import pickles
from tests.campaign.verdicts import CLEAR, TAKEN, UNCLEAR, WRONG, Finding, refusal, refused
from tests.campaign.world import World, contents

FILES = {
    "set/one/a.jpg": random.Random(0).randbytes(3000),
    "set/two/b.jpg": b"b" * 5000,
    "set/list.txt": b"one 0\ntwo 1\n",
}
PLAIN = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


def registry(folder: Path, name: str, content: bytes, kind: str, urls: list[str], known: dict | None = None) -> Path:
    """A registry of one set of one file."""
    facts = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} if known is None else known
    file = {"name": name, "urls": urls, "unpack": kind, **facts}
    common = {"title": "T", "splits": {"test": 4}, "num_classes": 2, "transform_group": "small", "citation": "C"}
    entry = common | {"layout_root": "set", "sources": [{"kind": "archive", "files": [file]}]}
    path = folder / "registry.yaml"
    path.write_text(json.dumps({"set": entry}))
    return path


def fetched(folder: Path, path: Path, *more: object, before: Callable[[], object] = lambda: None) -> forks.Ended:
    """`zsr fetch set` below folder/root, with another registry and with less patience."""

    def prepare() -> None:
        from zsr.data import registry

        registry.PATH = path
        registry.entries.cache_clear()
        _impatient()
        before()

    return forks.run(("zsr", "fetch", "set", "--root", folder / "root", *more), folder, before=prepare)


def _impatient() -> None:
    """Waits take a tenth of the time, so that a mirror that is silent for ever costs seconds."""
    from zsr.cli import fetch
    from zsr.data.fetching.download import Patience

    usual = Patience()
    times = ("timeout", "pause", "window", "grace", "seconds", "stall", "slow_after", "patience")
    shorter = {one.name: getattr(usual, one.name) / 10 for one in fields(usual) if one.name in times}
    wish = fetch.Wish
    fetch.Wish = lambda **values: wish(**values | {"patience": replace(usual, **shorter)})  # type: ignore[misc,assignment]


def laid_out(root: Path) -> dict[str, str]:
    """What lies below a data root besides what `zsr fetch` keeps for itself."""
    own = ("archives/", "receipts/", "locks/")
    return {name: digest for name, digest in contents(root).items() if not name.startswith(own)}


# Archives


def archives(rng: random.Random, world: World, folder: Path) -> Finding:
    if rng.random() < 0.3:
        return pickles(rng, world, folder)
    kind = rng.choice(("tar.gz", "tar.gz", "tar", "zip", "tar.xz"))
    if rng.random() < 0.35 and kind != "tar":  # a plain tar has no checksum of what it holds
        content, way = _packed(kind, list(FILES.items())), rng.choice((*bad_bytes.RUINED, bad_bytes.bits_flipped))
        content, label, safe = way(content, rng), way.__name__, None
    else:
        label, content, safe = _malicious(rng, kind)
    return _imported(folder, f"{kind}: {label}", f"archive.{kind}", content, safe)


def _imported(folder: Path, label: str, name: str, content: bytes, safe: bool | None) -> Finding:
    """`zsr fetch --from` of an archive. safe: may it be taken? None: only if the right files come out."""
    given = folder / "given"
    given.mkdir(parents=True)
    (given / name).write_bytes(content)
    path = registry(folder, name, content, "zip" if name.endswith("zip") else "tar", ["http://127.0.0.1:9/nowhere"])
    ended = fetched(folder, path, "--from", given)
    here = {one.name for one in folder.iterdir() if not one.name.startswith(".")} - {"given", "root", "registry.yaml"}
    root = folder / "root"
    out = laid_out(root) if root.exists() else {}
    strange = [one for one in out if not one.startswith("set/")]
    receipts = [one for one in contents(root) if one.startswith("receipts/") and one != "receipts/set.json"]
    if here or strange or receipts or ESCAPED.exists():
        ESCAPED.unlink(missing_ok=True)
        return Finding(WRONG, label, f"written outside the set's folder: {[*here, *strange, *receipts][:3]}")
    if ended.status or ended.hung:
        there = contents(root, hidden=True) if root.exists() else {}
        left = [one for one in there if ".staging" in one or ".tmp" in one]
        return refusal(ended, [name, "set"], label, left)
    if out == PLAIN:
        return Finding(TAKEN, label)
    return (
        Finding(TAKEN, label, "more files")
        if safe
        else Finding(WRONG, label, f"other files come out: {sorted(out)[:4]}")
    )


def _packed(kind: str, members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members:
                archive.writestr(name, content)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind.removeprefix('tar').lstrip('.')}") as archive:
        for name, content in members:
            _add(archive, name, content)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes = b"", **changes: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for attribute, value in changes.items():
        setattr(info, attribute, value)
    archive.addfile(info, io.BytesIO(content))


ESCAPED = Path(tempfile.gettempdir()) / "campaign_escaped"  # an absolute name, outside of every case
NAMES = {  # names of a member that is added, and whether the archive may be taken with it
    **{name: False for name in ("../x", str(ESCAPED), "set/../../x", "C:/x", "set\\..\\x", "..", "set/one")},
    **{name: False for name in ("other/x.jpg", "receipts/other.json", "locks/set", "archives/set/y", "set/one/a.jpg")},
    **{name: False for name in ("set/\x1b[31mred\x1b[0m", "set/\x1b]0;title\x07", "../\x1b[2J")},
    **{name: True for name in ("set/ü.jpg", "set/a b.jpg", "set/" + "n" * 200 + ".jpg", "set/" + "d/" * 60 + "x")},
    **{name: False for name in ("set/" + "n" * 300, "set/" + "d/" * 3000 + "x", "./../x", "set/./../../x")},
}


def _malicious(rng: random.Random, kind: str) -> tuple[str, bytes, bool | None]:
    """An archive with members that none should have, of the right hash."""
    members = list(FILES.items())
    if kind == "zip" or rng.random() < 0.5:
        name = rng.choice(list(NAMES))
        added = [(name, b"x" * rng.choice((0, 10)))]
        return f"a member {name[:40]!r}", _packed(kind, rng.choice((members + added, added + members))), NAMES[name]
    ways: dict[str, Callable[[tarfile.TarFile], object]] = {
        "a link out": lambda a: _add(a, "set/l", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "a link within": lambda a: _add(a, "set/l", type=tarfile.SYMTYPE, linkname="one/a.jpg"),
        "a hard link out": lambda a: _add(a, "set/l", type=tarfile.LNKTYPE, linkname="../../etc/passwd"),
        "a link and a file behind it": lambda a: (
            _add(a, "set/up", type=tarfile.SYMTYPE, linkname=".."),
            _add(a, "set/up/x", b"x"),
        ),
        "a device": lambda a: _add(a, "set/d", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
        "a pipe": lambda a: _add(a, "set/p", type=tarfile.FIFOTYPE),
        "a huge long name": lambda a: _add(a, "set/" + "n" * 2**20),
        "a huge header": lambda a: _add(a, "set/h.jpg", b"x", pax_headers={"comment": "c" * (400 * 2**20)}),
        "a bomb": lambda a: _add(a, "set/bomb", bytes(200 * 2**20)),
        "a time of the year 9999999": lambda a: _add(a, "set/t.jpg", b"x", mtime=2**45),
        "rights of 0": lambda a: _add(a, "set/r.jpg", b"x", mode=0),
        "a setuid bit": lambda a: _add(a, "set/s.jpg", b"x", mode=0o6777),
        "many members": lambda a: [_add(a, f"set/m/{k}") for k in range(3000)],
        "a size that lies": lambda a: a.fileobj.write(_lying_header()),
        "a folder in place of a file": lambda a: _add(a, "set/list.txt", type=tarfile.DIRTYPE),
    }
    safe = {"a time of the year 9999999", "rights of 0", "a setuid bit", "many members"}
    safe |= {"a bomb"} if kind == "tar" else set()  # an archive without compression is as large as what it holds
    way = rng.choice(list(ways))
    buffer = io.BytesIO()
    mode = f"w:{kind.removeprefix('tar').lstrip('.')}" if way != "a size that lies" else "w"
    with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            _add(archive, name, content)
        ways[way](archive)
    content = gzip.compress(buffer.getvalue()) if way == "a size that lies" and kind == "tar.gz" else buffer.getvalue()
    return way, content, way in safe


def _lying_header() -> bytes:
    info = tarfile.TarInfo("set/lie.jpg")
    info.size = 2**33
    return info.tobuf() + bytes(512)


# Mirrors

Behaviour = Callable[["_Handler", bytes, int], None]


def mirrors(rng: random.Random, world: World, folder: Path) -> Finding:
    """`zsr fetch` from a mirror on the loopback that misbehaves, for a while or for ever."""
    good = _packed("tar.gz", list(FILES.items()))
    names = list(BEHAVIOURS)
    plan = [[rng.choice(names) for _ in range(rng.choice((1, 1, 2, 3)))] for _ in range(rng.choice((1, 1, 2)))]
    forever = [rng.random() < 0.5 for _ in plan]
    part = rng.choice((None, None, None, good[:1000], bad_bytes.HTML, good, good + b"more"))
    known: dict | None = rng.choice((None, None, None, {"size": len(good)}, {"md5": hashlib.md5(good).hexdigest()}))
    said = [", ".join(one) + (" for ever" if always else "") for one, always in zip(plan, forever)]
    label = "; then ".join(said) + (f"; {len(part)} bytes were here" if part is not None else "")
    ended = _asked(folder, good, plan, forever, part, known)
    if not ended.status and not ended.hung:
        return _right(folder, label, ended)
    kind, said_text = refused(ended, ["archive.tar.gz", "set"])
    if kind == CLEAR:
        again = _asked(folder, good, [["right"]], [False], None, known)
        if again.status or _right(folder, label, again).kind != TAKEN:
            return Finding(UNCLEAR, label, f"a right mirror does not heal it: {again.err.strip()[:200]}")
    return Finding(kind, label, said_text)


def _right(folder: Path, label: str, ended: forks.Ended) -> Finding:
    right = laid_out(folder / "root") == PLAIN
    return Finding(TAKEN, label) if right else Finding(WRONG, label, "other files came out")


def _asked(
    folder: Path, good: bytes, plan: list[list[str]], forever: list[bool], part: bytes | None, known: dict | None
) -> forks.Ended:
    """Serve from a thread of the fork itself: this process must have no threads, since it forks."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in plan]
    urls = [f"http://127.0.0.1:{one.getsockname()[1]}/archive.tar.gz" for one in listeners]
    path = registry(folder, "archive.tar.gz", good, "tar", urls, known)
    if part is not None:
        place = folder / "root/archives/set/archive.tar.gz.part"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(part)

    def serve() -> None:
        for listener, behaviours, always in zip(listeners, plan, forever):
            server = _Server(listener, behaviours, always, good)
            threading.Thread(target=server.serve_forever, daemon=True).start()

    try:
        return fetched(folder, path, before=serve)
    finally:
        for listener in listeners:
            listener.close()


class _Server(ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, behaviours: list[str], forever: bool, content: bytes):
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket, self.server_address = listener, listener.getsockname()
        self.behaviours, self.forever, self.content = list(behaviours), forever, content

    def handle_error(self, request, client_address):
        """A client that hangs up is right to do so."""

    def next(self) -> str:
        if not self.behaviours:
            return "right"
        return self.behaviours[0] if self.forever and len(self.behaviours) == 1 else self.behaviours.pop(0)


class _Handler(StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        start, self.path = 0, self.rfile.readline().split(b" ")[1]
        while (line := self.rfile.readline()) not in (b"\r\n", b"\n", b""):
            if line.lower().startswith(b"range: bytes="):
                start = int(line[13:].strip().rstrip(b"-"))
        name = "right" if self.path.startswith(b"/moved") else self.server.next()
        BEHAVIOURS[name](self, self.server.content, start)

    def say(self, status: str, *headers: str, body: bytes = b"") -> None:
        self.wfile.write(f"HTTP/1.1 {status}\r\n".encode() + "".join(f"{h}\r\n" for h in headers).encode() + b"\r\n")
        self.wfile.write(body)
        self.wfile.flush()


def _file(handler: _Handler, content: bytes, start: int, body: bytes | None = None, more: str = "X-A: b") -> None:
    """What a right server says, with another body."""
    rest = content[start:] if body is None else body
    if start >= len(content) and start:
        return handler.say("416 Range Not Satisfiable", f"Content-Range: bytes */{len(content)}", "Content-Length: 0")
    span = f"Content-Range: bytes {start}-{len(content) - 1}/{len(content)}"
    status = ("206 Partial Content", span) if start else ("200 OK",)
    handler.say(*status, f"Content-Length: {len(content) - start}", "Connection: close", more, body=rest)


def _slowly(handler: _Handler, content: bytes, start: int) -> None:
    _file(handler, content, start, b"")
    for place in range(start, len(content)):
        handler.wfile.write(content[place : place + 1])
        handler.wfile.flush()
        time.sleep(0.5)


def _silent(handler: _Handler, content: bytes, start: int) -> None:
    _file(handler, content, start, content[start : start + 300])
    time.sleep(300)


def _status(status: str) -> Behaviour:
    return lambda handler, content, start: handler.say(status, "Content-Length: 0", "Connection: close")


def _moved(place: str, status: str = "302 Found") -> Behaviour:
    return lambda handler, content, start: handler.say(status, f"Location: {place}", "Content-Length: 0")


def _raw(text: bytes) -> Behaviour:
    return lambda handler, content, start: handler.wfile.write(text) and None


def _page(handler: _Handler, content: bytes, start: int) -> None:
    body = bad_bytes.HTML
    handler.say("200 OK", "Content-Type: text/html", f"Content-Length: {len(body)}", body=body)


def _as_long(handler: _Handler, content: bytes, start: int) -> None:
    """A file of the right length and another content."""
    handler.say("200 OK", f"Content-Length: {len(content)}", body=bad_bytes.HTML.ljust(len(content)))


BEHAVIOURS: dict[str, Behaviour] = {
    "right": _file,
    "cut": lambda h, c, s: _file(h, c, s, c[s : s + 700]),
    "nothing": lambda h, c, s: _file(h, c, s, b""),
    "a page": _page,
    "a page of the right length": _as_long,
    "a longer file": lambda h, c, s: h.say("200 OK", f"Content-Length: {len(c) + 9}", body=c + b"too long "),
    "a shorter file": lambda h, c, s: h.say("200 OK", f"Content-Length: {len(c) - 9}", body=c[:-9]),
    "no length": lambda h, c, s: h.say("200 OK", "Connection: close", body=c),
    "no length, cut": lambda h, c, s: h.say("200 OK", "Connection: close", body=c[:500]),
    "endless": lambda h, c, s: h.say("200 OK", "Connection: close", body=c * 3000),
    "a length of letters": lambda h, c, s: h.say("200 OK", "Content-Length: many", body=c),
    "a length below 0": lambda h, c, s: h.say("200 OK", "Content-Length: -1", body=c),
    "a wrong range": lambda h, c, s: h.say("206 Partial Content", "Content-Range: bytes 7-9/10", body=c[7:]),
    "a range of letters": lambda h, c, s: h.say("206 Partial Content", "Content-Range: x", body=c[s:]),
    "the whole file": lambda h, c, s: _file(h, c, 0),
    "packed again": lambda h, c, s: _file(h, c, s, gzip.compress(c[s:]), "Content-Encoding: gzip"),
    "chunks": lambda h, c, s: h.say(
        "200 OK", "Transfer-Encoding: chunked", body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(c), c)
    ),
    "chunks that break": lambda h, c, s: h.say("200 OK", "Transfer-Encoding: chunked", body=b"ffff\r\nabc"),
    "chunks of letters": lambda h, c, s: h.say("200 OK", "Transfer-Encoding: chunked", body=b"zz\r\nabc"),
    "one byte after another": _slowly,
    "silence": _silent,
    "no answer": lambda h, c, s: time.sleep(300),
    "noise": _raw(b"\x00\xff" * 300 + b"\r\n\r\n"),
    "half a header": _raw(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "a huge header": _raw(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 200_000 + b"\r\n\r\n"),
    "a thousand headers": _raw(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 1000 + b"\r\n"),
    "a redirect": _moved("/moved/archive.tar.gz"),
    "a redirect for ever": _moved("/archive.tar.gz"),
    "a redirect to a file": _moved("file:///etc/passwd"),
    "a redirect to nowhere": _moved("http://127.0.0.1:1/archive.tar.gz"),
    "a redirect of letters": _moved("::::"),
    "a permanent redirect": _moved("/moved/archive.tar.gz", "308 Permanent Redirect"),
    **{
        f"status {status}": _status(f"{status} Odd")
        for status in (204, 301, 304, 400, 401, 403, 404, 410, 416, 418, 429, 500, 502, 503, 599)
    },
}
