"""A web hook that keeps what it gets, on a port of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Inbox:
    """Posts as JSON documents, gets as paths; `answer` is the status that it gives."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.gets: list[str] = []
        self.answer = 200
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                inbox.posts.append(json.loads(body))
                self.send_response(inbox.answer)
                self.end_headers()

            def do_GET(self) -> None:
                inbox.gets.append(self.path)
                self.send_response(inbox.answer)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@contextmanager
def open_inbox() -> Iterator[Inbox]:
    """An inbox for the length of the block."""
    made = Inbox()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
