"""A small S3 server that can be told to behave badly, as some that are in use do.

It checks no signature and keeps objects in memory. Not a stand-in for a real server: only for
answers that a good one never gives.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class CarelessS3(ThreadingHTTPServer):
    """Ignores conditions and answers ranges with the whole object and status 200; with
    `refusal` (status, code) it answers every request with that error, with `page` with
    that page of the web. `moment` and `written` are the times in its heads and listings."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.refusal: tuple[int, str] | None = None
        self.page: bytes | None = None
        self.cut_after: int | None = None
        self.moment = "Thu, 01 Jan 2026 00:00:00 GMT"
        self.written = "2026-01-01T00:00:00.000Z"
        self.requests: list[tuple[str, str]] = []

    @property
    def endpoint_url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def careless_s3() -> Iterator[CarelessS3]:
    """A running server for the length of the block."""
    server = CarelessS3()
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
    server: CarelessS3

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._begin():
            self.server.objects[self._key()] = body
            self._answer(200, b"", {"ETag": '"0"'})

    def do_GET(self) -> None:
        if not self._begin():
            return
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if "list-type" in query:
            self._answer(200, self._listing(query.get("prefix", [""])[0]))
            return
        found = self.server.objects.get(self._key())
        if found is None:
            self._refuse(404, "NoSuchKey")
        else:
            self._answer(200, found, {"Last-Modified": self.server.moment, "ETag": '"0"'})

    def do_HEAD(self) -> None:
        if not self._begin():
            return
        found = self.server.objects.get(self._key())
        if found is None and self._key().count("/") > 0:
            self._refuse(404, "NotFound")
        else:
            self._answer(200, found or b"", {"Last-Modified": self.server.moment})

    def do_DELETE(self) -> None:
        if self._begin():
            self.server.objects.pop(self._key(), None)
            self._answer(204, b"")

    def log_message(self, *_: object) -> None:
        pass

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    def _begin(self) -> bool:
        self.server.requests.append((self.command, self.path))
        if self.server.page is not None:
            self._answer(200, self.server.page, {"Content-Type": "text/html; charset=utf-8"})
            return False
        if self.server.refusal is None:
            return True
        self._refuse(*self.server.refusal)
        return False

    def _refuse(self, status: int, code: str) -> None:
        self._answer(
            status,
            f"<Error><Code>{code}</Code><Message>{self.headers['Authorization']}</Message>"
            f"</Error>".encode(),
        )

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and body:
            self.wfile.write(body[: self.server.cut_after])
            if self.server.cut_after is not None:
                self.close_connection = True

    def _listing(self, prefix: str) -> bytes:
        bucket = self._key()
        rows = "".join(
            f"<Contents><Key>{escape(key[len(bucket) + 1 :])}</Key><Size>{len(data)}</Size>"
            f"<LastModified>{self.server.written}</LastModified></Contents>"
            for key, data in sorted(self.server.objects.items())
            if key.startswith(f"{bucket}/{prefix}")
        )
        return (
            f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode()
        )
