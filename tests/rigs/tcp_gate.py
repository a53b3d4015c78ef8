"""A door before a server: open, shut or stiff, as a network is that goes away or is slow."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_STEP_BYTES = 64 << 10


class Gate:
    """Passes connections on to a port of this machine; `shut` and `delay_seconds` may be set."""

    def __init__(self, port: int) -> None:
        self.shut = False
        self.delay_seconds = 0.0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where to knock."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def slam(self) -> None:
        """Shut it, and cut off who is within."""
        self.shut = True
        with self._lock:
            within, self._open = self._open, []
        for one in within:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self) -> None:
        """Take the door away."""
        self.slam()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                visitor, _ = self._listener.accept()
            except OSError:
                return
            if self.shut:
                visitor.close()
                continue
            try:
                inner = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                visitor.close()
                continue
            with self._lock:
                self._open += [visitor, inner]
            for here, there in ((visitor, inner), (inner, visitor)):
                threading.Thread(target=self._pass, args=(here, there), daemon=True).start()

    def _pass(self, here: socket.socket, there: socket.socket) -> None:
        try:
            while data := here.recv(_STEP_BYTES):
                if self.delay_seconds:
                    time.sleep(self.delay_seconds)
                there.sendall(data)
        except OSError:
            pass
        for one in (here, there):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()


@contextmanager
def gate(port: int) -> Iterator[Gate]:
    """A gate that is gone afterwards."""
    made = Gate(port)
    try:
        yield made
    finally:
        made.close()
