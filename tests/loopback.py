"""All public sets and the base weights, tiny and in their true formats, on a server on the loopback.

The server is the only address that a guarded process can reach.
"""

import gzip
import hashlib
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from tests import fixtures_real
from zsr.data import prompts
from zsr.data.registry import Entry, File, Source, entries

COMMIT = "c" * 40
CHUNK = 2**16
# A module that Python loads at its start: no connection but to the loopback, and no name is looked up.
GUARD = """
import socket

_connect = socket.socket.connect


def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1"):
        raise OSError(101, f"the rehearsal has no network: {address[0]}")
    return _connect(self, address)


def getaddrinfo(host, *rest, _found=socket.getaddrinfo, **more):
    if host not in (None, "127.0.0.1", "::1", "localhost"):
        raise socket.gaierror(-2, f"the rehearsal has no network: {host}")
    return _found(host, *rest, **more)


socket.socket.connect, socket.getaddrinfo = connect, getaddrinfo
"""


class Loopback(ThreadingHTTPServer):
    """Serves files; counts what it sends.

    files: by path, the file that is served. asked: (path, first byte) of every GET that was answered with content.
    hold: a path and a number of bytes: the next answer for the path stops there, and `held` is set.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, Path] = {}
        self.asked: list[tuple[str, int]] = []
        self.sent: dict[str, int] = {}
        self.hold, self.held, self.released = ("", 0), threading.Event(), threading.Event()

    def handle_error(self, request, client_address):
        """A client that is killed hangs up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = self.path.lstrip("/").partition("?")[0]
        file, self.close_connection = self.server.files.get(path), True
        if file is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")  # as the hub says of a file
            self.send_header("Content-Length", "0")
            return self.end_headers()
        size, digest = file.stat().st_size, sha256(file)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), int(asked[2] or size - 1)) if asked else (0, size - 1)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.server.asked.append((path, first))
            self.send(path, file, first, last + 1)

    def send(self, path: str, file: Path, at: int, end: int) -> None:
        server = self.server
        stops = server.hold[1] if server.hold[0] == path else end
        with file.open("rb") as opened:
            opened.seek(at)
            while at < min(end, stops):
                part = opened.read(min(CHUNK, min(end, stops) - at))
                self.wfile.write(part)
                server.sent[path] = server.sent.get(path, 0) + len(part)
                at += len(part)
        if at < end:
            server.hold = ("", 0)
            server.held.set()
            server.released.wait()

    def log_message(self, *_):
        pass


_digests: dict[Path, str] = {}


def sha256(path: Path) -> str:
    if path not in _digests:
        with path.open("rb") as file:
            _digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[path]


@contextmanager
def loopback():
    server = Loopback()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def facts(path: Path) -> dict:
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def serve_sets(server: Loopback, document: dict, folder: Path) -> dict:
    """Make and serve every set that a machine can get; point the document of registry.yaml at the files.

    Returns the content of hub_lock.json. Of several sources the first is served, and of several mirrors the last.
    """
    rng, lock = np.random.default_rng(0), {}
    for key, dataset in entries().items():
        if dataset.registration:
            continue
        usable = [n for n, one in enumerate(dataset.sources) if one.kind != "manual" and one.status != "dead"]
        source, written = dataset.sources[usable[0]], document[key]["sources"]
        for place in usable:
            for file in written[place].get("files", []):
                names = [f"{n}/{key}/{file['name']}" for n in range(len(file["urls"]))]
                file["urls"] = [f"{server.address}/{name}" for name in names]
        if source.kind == "hub":
            lock[source.repo] = _serve_shards(server, key, source, folder)
            written[usable[0]]["shards"], document[key]["num_classes"] = 2, 3
        else:
            laid = folder / "laid" / key
            fixtures_real.LAYOUTS[key](laid, rng)
            for file, told in zip(source.files, written[usable[0]]["files"]):
                path = _packed(dataset, file, source, laid, folder / "packed" / key, told)
                server.files[told["urls"][-1].removeprefix(f"{server.address}/")] = path
                told.pop("md5", None)
                told.update(facts(path))
    return lock


def _serve_shards(server: Loopback, key: str, source: Source, folder: Path) -> dict:
    known, place = prompts.rows(key)[:3], folder / "shards" / key
    names = [row.raw_key[3:] if row.raw_key.startswith("/") else row.name_openclip or row.raw_key for row in known]
    fixtures_real.shards(place, names, [row.raw_key for row in known], np.random.default_rng(0))
    files = {path.relative_to(place).as_posix(): path for path in sorted(place.rglob("*")) if path.is_file()}
    for name, path in files.items():
        server.files[f"datasets/{source.repo}/resolve/{COMMIT}/{name}"] = path
    return {"revision": COMMIT, "files": {name: facts(path) for name, path in files.items()}}


def _packed(dataset: Entry, file: File, source: Source, laid: Path, folder: Path, told: dict) -> Path:
    """The file as the publisher has it, made from the layout that it unpacks to."""
    base, path = laid / file.into, folder / file.name
    folder.mkdir(parents=True, exist_ok=True)
    if file.unpack == "none":
        path.write_bytes((base / file.name).read_bytes())
    elif file.unpack == "gz":
        path.write_bytes(gzip.compress((base / file.name.removesuffix(".gz")).read_bytes()))
    elif file.inner:
        inner = file.inner[0]
        within = folder / Path(inner.name).name
        _archive(inner.unpack, within, laid / inner.into, list((laid / inner.into).iterdir()))
        told["inner"][0] = {k: v for k, v in told["inner"][0].items() if k != "md5"} | facts(within)
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(within, inner.name)
    else:
        plain = {other.name for other in source.files}
        parts = [part for part in sorted(base.iterdir()) if part.name not in plain]
        own = [part for part in parts if part.name == file.name.partition(".")[0]]
        _archive(file.unpack, path, base, own or parts)
    return path


def _archive(kind: str, path: Path, base: Path, parts: Iterable[Path]) -> None:
    if kind == "tar":
        with tarfile.open(path, "w:gz") as archive:
            for part in parts:
                archive.add(part, part.relative_to(base).as_posix())
        return
    with zipfile.ZipFile(path, "w") as archive:
        for part in parts:
            for file in sorted(part.rglob("*")):
                archive.write(file, file.relative_to(base).as_posix())
