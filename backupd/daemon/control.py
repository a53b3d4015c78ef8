"""The control socket: who may ask, and how a line becomes an answer; what is answered is given.

One thread per connection, at most sixteen; a client that is slow, silent or hostile costs one of
them for a bounded time and nothing else.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from backupd.daemon.wire import (
    MAX_REQUEST_BYTES,
    SOCKET_NAME,
    Lines,
    encode_line,
    socket_address,
)
from backupd.errors import EXIT_FAILED, BackupdError

if TYPE_CHECKING:
    from backupd.daemon.logs import Log

MAX_CONNECTIONS = 16
REQUEST_SECONDS = 10.0
SEND_SECONDS = 10.0
# struct ucred of unix(7): pid, uid, gid.
_CREDENTIALS = struct.Struct("iII")

Reply = Mapping[str, Any]


class Peer(NamedTuple):
    """The process that asks, as the kernel knows it; `pid` is 0 where it lives in a namespace
    that is out of sight."""

    pid: int
    user: int


# Gives the events of a request, and its final reply (which has `ok`) last.
Answer = Callable[[Mapping[str, Any], Peer], Iterator[Reply]]


class ControlServer:
    """Listens at a name in a folder that is the daemon's own; `state_dir`'s lock must be held."""

    def __init__(
        self,
        folder: Path,
        answer: Answer,
        *,
        log: Log,
        allowed: frozenset[int] | None,
        name: str = SOCKET_NAME,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        """`allowed` are the user ids that may ask; None leaves it to `answer`, which is told who
        does. Raises `BackupdError`.
        """
        self._answer = answer
        self._log = log
        self._allowed = allowed
        self._request_seconds = request_seconds
        self._place = folder / name
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._serving: set[threading.Thread] = set()
        self._closing = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # What is left of a daemon that was killed; nobody else listens, as we have the lock.
            self._place.unlink(missing_ok=True)
            with socket_address(folder, name) as address:
                # The mode must be right from the start; no other thread makes files yet.
                mask = os.umask(0o177 if allowed is not None else 0o111)
                try:
                    self._listener.bind(address)
                finally:
                    os.umask(mask)
            self._listener.listen(MAX_CONNECTIONS)
        except OSError as error:
            self._listener.close()
            raise BackupdError(
                f"the control socket {self._place} cannot be made: {error.strerror}",
                hint="choose a state_dir on a local disk that this user may write to",
            ) from None
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)

    def start(self) -> None:
        """Accept connections."""
        self._thread.start()

    def alive(self) -> bool:
        """Whether connections are accepted."""
        return self._thread.is_alive()

    def drain(self, seconds: float) -> None:
        """Give those who are being answered so long to get the last of it."""
        deadline = time.monotonic() + seconds
        for thread in list(self._serving):
            thread.join(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Accept no more; running answers end by themselves."""
        self._closing.set()
        self._place.unlink(missing_ok=True)
        # Wakes accept(2), which close(2) alone would not.
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if self._closing.is_set():
                    return
                # Out of descriptors, most likely: they come back as jobs end.
                self._log.warning(f"the control socket cannot accept: {error.strerror}")
                self._closing.wait(1.0)
                continue
            if not self._slots.acquire(blocking=False):
                _send(connection, _refusal("too many clients ask at once", "try again"))
                connection.close()
                continue
            thread = threading.Thread(
                target=self._serve, args=(connection,), name="control-client", daemon=True
            )
            self._serving.add(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._converse(connection)
        except (OSError, ValueError):
            pass  # The client left, or is none of ours; there is nobody to tell.
        finally:
            self._serving.discard(threading.current_thread())
            self._slots.release()

    def _converse(self, connection: socket.socket) -> None:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        peer = Peer(*_CREDENTIALS.unpack(raw)[:2])
        if self._allowed is not None and peer.user not in self._allowed:
            self._log.warning("a user who may not ask did", uid=peer.user)
            _send(connection, _refusal("this user may not ask the daemon", "use sudo"))
            return
        lines = Lines(connection, MAX_REQUEST_BYTES)
        while True:
            connection.settimeout(self._request_seconds)
            try:
                request = lines.read()
            except ValueError as error:
                _send(connection, _refusal(f"the request is not understood: {error}", ""))
                return
            if request is None:
                return
            connection.settimeout(SEND_SECONDS)
            for reply in self._replies(request, peer):
                connection.sendall(encode_line(reply))

    def _replies(self, request: Mapping[str, Any], peer: Peer) -> Iterator[Reply]:
        try:
            yield from self._answer(request, peer)
        except BackupdError as error:
            yield _refusal(str(error), error.hint, error.exit_code)
        except OSError as error:
            yield _refusal(f"{error.strerror or error}", "the daemon's log may say more")
        except Exception as error:
            self._log.exception("an answer met a bug in backupd", op=str(request.get("op")))
            yield _refusal(f"this is a bug in backupd: {type(error).__name__}: {error}", "")


def _refusal(error: str, hint: str, exit_code: int = EXIT_FAILED) -> Reply:
    return {"ok": False, "error": error, "hint": hint, "exit_code": exit_code}


def _send(connection: socket.socket, reply: Reply) -> None:
    try:
        connection.settimeout(1.0)
        connection.sendall(encode_line(reply))
    except OSError:
        pass
