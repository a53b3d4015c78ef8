"""A proxy before a real S3 server that makes one storage class cold, as Amazon's archives are.

Objects of the class GLACIER answer to GET with InvalidObjectState until they were asked for with
RestoreObject and `thaw_seconds` have passed. It was made from Amazon's documentation of
RestoreObject, GetObject and HeadObject; Amazon itself was not tried. Everything else goes through.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

_COLD = "GLACIER"
_LATER = 'ongoing-request="false", expiry-date="Fri, 01 Jan 2100 00:00:00 GMT"'


class Glacier(ThreadingHTTPServer):
    """`asked` has the time and tier of each object's request; `gets` counts refused GETs."""

    daemon_threads = True

    def __init__(self, endpoint_url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(endpoint_url).netloc
        self.thaw_seconds = 3600.0
        self.asked: dict[str, tuple[float, str]] = {}
        self.cold: set[str] = set()
        self.refused: list[str] = []
        self.gets: list[str] = []

    @property
    def endpoint_url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def thawed(self, path: str) -> bool:
        """Whether the object at `path` can be read."""
        asked = self.asked.get(path)
        return asked is not None and time.monotonic() >= asked[0] + self.thaw_seconds


@contextmanager
def glacier(endpoint_url: str) -> Iterator[Glacier]:
    """A running proxy for the length of the block."""
    server = Glacier(endpoint_url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Glacier

    def do_GET(self) -> None:
        path = self._object()
        if path:
            self.server.gets.append(path)
        if path in self.server.cold and not self.server.thawed(path):
            self.server.refused.append(path)
            self._answer(403, [], self._error("InvalidObjectState"))
        else:
            self._pass_on()

    def do_HEAD(self) -> None:
        self._pass_on()

    def do_PUT(self) -> None:
        if self.headers.get("x-amz-storage-class") == _COLD:
            self.server.cold.add(self._object())
        self._pass_on()

    def do_DELETE(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        if "restore" not in parse_qs(urlsplit(self.path).query, keep_blank_values=True):
            self._pass_on()
            return
        body, path = self._body(), self._object()
        tier = re.search(rb"<Tier>(\w+)</Tier>", body)
        if path not in self.server.cold:
            self._answer(403, [], self._error("InvalidObjectState"))
        elif path in self.server.asked and not self.server.thawed(path):
            self._answer(409, [], self._error("RestoreAlreadyInProgress"))
        else:
            assert tier is not None
            self.server.asked.setdefault(path, (time.monotonic(), tier[1].decode()))
            self._answer(202, [], b"")

    def log_message(self, *_: object) -> None:
        pass

    def _object(self) -> str:
        """The path of an object; empty for a bucket."""
        path = urlsplit(self.path).path
        return path if path.strip("/").count("/") else ""

    def _error(self, code: str) -> bytes:
        return f"<Error><Code>{code}</Code></Error>".encode()

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _pass_on(self) -> None:
        """As it came, its Host included, as that is part of what was signed."""
        body = self._body()
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=180)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for key, value in self.headers.items():
            if key.lower() not in ("expect", "connection"):
                upstream.putheader(key, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        data = answer.read()
        headers = [
            (key, value)
            for key, value in answer.getheaders()
            if key.lower() not in ("connection", "transfer-encoding", "content-length")
        ]
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        path = self._object()
        if self.command == "HEAD" and path in self.server.asked:
            ongoing = 'ongoing-request="true"'
            headers.append(("x-amz-restore", _LATER if self.server.thawed(path) else ongoing))
        upstream.close()
        self._answer(answer.status, headers, data, length)

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, length: str | None = None
    ) -> None:
        self.send_response_only(status)
        for key, value in headers:
            self.send_header(key, value)
        if status != 204:
            self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
