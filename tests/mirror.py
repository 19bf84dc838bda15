"""A server on the loopback that misbehaves as told."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"<!DOCTYPE html>\n<html>Sign in to continue</html>\n"


class Mirror:
    """A server whose answers a test chooses.

    files: content by path. faults: by path what the next requests meet, one each: an HTTP status; ("drop", n) or
    ("stall", n) after n bytes; ("trickle", seconds) sends a byte at a time, with pauses; "whole" ignores Range, and
    "ranged" If-Range; "early" starts ten bytes before what was asked for; "endless" announces no length; "page" is an
    HTML page; a byte string is sent instead of the file. versions: ETags by path; If-Range is heeded. seen: (method,
    path, Range or "") of each request. sent: bytes of bodies by path. leads: by path another address, to which the
    client is sent. tokens: the header Authorization of each request, or "". stall: the seconds that a stall takes,
    unless `stalled` is set.
    """

    def __init__(self, server: ThreadingHTTPServer):
        self.address = f"http://127.0.0.1:{server.server_port}"
        self.files, self.faults, self.seen, self.sent, self.versions = {}, {}, [], {}, {}
        self.leads, self.tokens, self.stall = {}, [], 5
        self.stalled = threading.Event()

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"

    def ranges(self) -> list[str]:
        return [asked for _, _, asked in self.seen]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool):
        mirror, path, asked = self.server.mirror, self.path.lstrip("/"), self.headers.get("Range", "")
        mirror.seen.append((self.command, path, asked))
        mirror.tokens.append(self.headers.get("Authorization", ""))
        if path in mirror.leads:
            return self.lead(mirror.leads[path])
        faults = mirror.faults.get(path, [])
        fault = faults.pop(0) if faults else None
        self.close_connection = True
        content = fault if isinstance(fault, bytes) else mirror.files.get(path)
        content = PAGE if fault == "page" else content
        version = mirror.versions.get(path, "")
        whole = fault in ("whole", "page") or self.headers.get("If-Range", version) != version and fault != "ranged"
        start = int(asked[6:-1]) if asked and not whole else 0
        start -= 10 if fault == "early" else 0
        status = fault if isinstance(fault, int) else 404 if content is None else 206 if start else 200
        if status in (200, 206) and start >= len(content) and start:
            status = 416
        self.send_response(status)
        if status == 416:
            self.send_header("Content-Range", f"bytes */{len(content)}")
        if status not in (200, 206):
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if version:
            self.send_header("ETag", version)
        if fault == "page":
            self.send_header("Content-Type", "text/html; charset=utf-8")
        if fault != "endless":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            self.send(path, content[start:], fault)

    def lead(self, address: str):
        self.close_connection = True
        self.send_response(302)
        self.send_header("Location", address)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, path: str, content: bytes, fault):
        mirror = self.server.mirror
        if isinstance(fault, tuple) and fault[0] == "trickle":
            for byte in content:
                self.wfile.write(bytes([byte]))
                if mirror.stalled.wait(fault[1]):
                    return
        part = content[: fault[1]] if isinstance(fault, tuple) else content
        mirror.sent[path] = mirror.sent.get(path, 0) + len(part)  # before: the client may be done at once
        self.wfile.write(part)
        if isinstance(fault, tuple) and fault[0] == "stall":
            self.wfile.flush()
            mirror.stalled.wait(mirror.stall)

    def log_message(self, *_):
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that hangs up on what it does not want is right to do so."""


@contextmanager
def mirror():
    """A running Mirror."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.mirror = Mirror(server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.mirror
    finally:
        server.mirror.stalled.set()
        server.shutdown()
        server.server_close()
        thread.join()
