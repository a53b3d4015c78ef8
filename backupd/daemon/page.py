"""The status page: a small HTTP server beside the loop, which reads and never changes anything.

`/` for people, `/status.json` for programs, `/metrics` for Prometheus, `/healthz` for a probe.
"""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from backupd.daemon.page_html import render_page
from backupd.daemon.page_metrics import render_metrics

if TYPE_CHECKING:
    from backupd.daemon.logs import Log

Status = Callable[[], Mapping[str, Any]]

_TIMEOUT_SECONDS = 10.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


def split_address(listen: str) -> tuple[str, int]:
    """`127.0.0.1:9731` or `[::1]:9731` as host and port. Raises `ValueError`."""
    host, mark, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not mark or not host or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ValueError("is no address; write HOST:PORT, such as 127.0.0.1:9731")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16


class StatusPage:
    """Serves the status of one daemon, also over a change of its address."""

    def __init__(self, status: Status, *, log: Log) -> None:
        self._status = status
        self._log = log
        self._listen = ""
        self._server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int:
        """The port that is listened on, 0 for none."""
        return self._server.server_address[1] if self._server is not None else 0

    def apply(self, listen: str) -> None:
        """Listen at `listen` from now on, nowhere where it is empty.

        An address that cannot be had is a warning in the log: the daemon's work goes on without
        the page.
        """
        if listen == self._listen:
            return
        self.close()
        self._listen = listen
        if not listen:
            return
        host, port = split_address(listen)
        try:
            server = _make(host, port, self._status)
        except OSError as error:
            self._listen = ""  # a reload tries again
            self._log.warning(f"no status page at {listen}: {error.strerror}")
            return
        self._server = server
        threading.Thread(target=server.serve_forever, name="page", daemon=True).start()
        self._log.info(f"the status page is at http://{listen}/")

    def close(self) -> None:
        """Stop listening."""
        server, self._server = self._server, None
        self._listen = ""
        if server is not None:
            server.shutdown()
            server.server_close()


def _make(host: str, port: int, status: Status) -> ThreadingHTTPServer:
    local = is_loopback(host)

    class Handler(BaseHTTPRequestHandler):
        """GET and HEAD of four paths."""

        server_version = "backupd"
        sys_version = ""
        timeout = _TIMEOUT_SECONDS

        def do_GET(self) -> None:
            # A page of another site could have its own name lead here (DNS rebinding), and read.
            if local and not _is_local_name(self.headers.get("Host", "")):
                self._answer(421, "text/plain", "this is not the host that was asked for\n")
                return
            path = self.path.partition("?")[0]
            if path == "/":
                self._answer(200, "text/html; charset=utf-8", render_page(status()))
            elif path == "/status.json":
                self._answer(200, "application/json", json.dumps(status(), indent=1) + "\n")
            elif path == "/metrics":
                self._answer(200, "text/plain; version=0.0.4", render_metrics(status()))
            elif path == "/healthz":
                self._answer(200, "text/plain", "the daemon runs\n")
            else:
                self._answer(404, "text/plain", "there is no such page; the one there is is /\n")

        do_HEAD = do_GET  # noqa: N815 - the base class looks for this name

        def _answer(self, code: int, kind: str, text: str) -> None:
            body = text.encode("utf-8", "backslashreplace")
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            for name, value in _HEADERS.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: who looks at a page is not the daemon's news."""

    family = _Server
    if ":" in host:
        import socket

        class _Server6(_Server):
            address_family = socket.AF_INET6

        family = _Server6
    return family((host, port), Handler)


def _is_local_name(header: str) -> bool:
    """Whether a Host header names this machine by a name that only this machine has."""
    name = header.rpartition(":")[0] if header.rpartition(":")[2].isdecimal() else header
    return is_loopback(name.removeprefix("[").removesuffix("]"))
