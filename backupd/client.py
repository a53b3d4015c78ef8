"""What a training program says to the daemon: "now", and "wait, I am writing".

Only the standard library is imported, and nothing of the rest of backupd, so that this file alone
serves in a training environment. No call raises into the training or waits for the daemon: what
is said goes to a thread of its own through a queue that drops its oldest when it is full.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import math
import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["snapshot", "writing"]

_LOG = logging.getLogger("backupd.client")
_MOST_WAITING = 64
_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 10.0
_EXIT_SECONDS = 1.0
_MAX_REPLY = 1 << 20
_MAX_ADDRESS = 107  # unix(7): sun_path has 108 bytes, one for the end
_WRITING_SECONDS = 600.0

Message = dict[str, Any]


def snapshot(
    model: str,
    *,
    labels: Mapping[str, object] | None = None,
    metrics: Mapping[str, Any] | None = None,
    step: int | None = None,
    epoch: float | None = None,
    wait: bool = False,
    timeout_seconds: float = 3600.0,
) -> str | None:
    """Have the daemon take a snapshot of `model`; returns at once, and None.

    Metrics may be anything that `float` takes, such as a tensor of one element. With `wait` it
    returns when the snapshot is stored, with its name (`llama-ft@v12`), or None where there is
    none after `timeout_seconds`, or no daemon. Nothing is raised.
    """
    try:
        message: Message = {
            "op": "snapshot",
            "models": [model],
            "labels": dict(labels or {}),
            "metrics": dict(metrics or {}),
            "step": step,
            "epoch": epoch,
            "wait": wait,
            "newest": not wait,
        }
        if not wait:
            _SENDER.put(message)
            return None
        reply = _ask(_plain(message), timeout_seconds)
        found = reply["results"][0]["report"]["snapshot"]
        return f"{found['model']}@v{found['version']}"
    except Exception as error:
        _complain(error)
        return None


@contextlib.contextmanager
def writing(model: str, *, timeout_seconds: float = _WRITING_SECONDS) -> Iterator[None]:
    """While inside, the daemon takes no snapshot of `model`.

    The daemon forgets it after `timeout_seconds`, and as soon as this process has ended.
    """
    token = uuid.uuid4().hex
    with contextlib.suppress(Exception):
        _SENDER.put({"op": "hold", "model": model, "token": token, "seconds": timeout_seconds})
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            _SENDER.put({"op": "release", "model": model, "token": token})


class _Sender:
    """Sends messages in their order from a thread that is started by the first of them."""

    def __init__(self) -> None:
        self._wakeup = threading.Condition()
        self._waiting: deque[Message] = deque(maxlen=_MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._busy = False

    def put(self, message: Message) -> None:
        """Leave a message; the oldest is dropped where too many wait."""
        with self._wakeup:
            self._waiting.append(message)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="backupd", daemon=True)
                self._thread.start()
            self._wakeup.notify()

    def drain(self, seconds: float) -> None:
        """Wait until all is sent, for so long at most."""
        deadline = time.monotonic() + seconds
        with self._wakeup:
            while (self._waiting or self._busy) and self._thread is not None:
                left = deadline - time.monotonic()
                if left <= 0 or not self._wakeup.wait(left):
                    return

    def _run(self) -> None:
        while True:
            with self._wakeup:
                self._busy = False
                self._wakeup.notify_all()
                while not self._waiting:
                    self._wakeup.wait()
                message = self._waiting.popleft()
                self._busy = True
            try:
                _ask(_plain(message), _ANSWER_SECONDS)
            except Exception as error:
                _complain(error)


def _plain(message: Message) -> Message:
    """A message as JSON takes it. Done in the thread, as a tensor may wait for its device."""
    plain = dict(message)
    if "labels" in message:
        plain["labels"] = {str(key): str(value) for key, value in message["labels"].items()}
    if "metrics" in message:
        metrics = {str(key): _number(value) for key, value in message["metrics"].items()}
        plain["metrics"] = {key: value for key, value in metrics.items() if value is not None}
    if message.get("step") is not None:
        plain["step"] = int(message["step"])
    if message.get("epoch") is not None:
        plain["epoch"] = _number(message["epoch"])
    return plain


def _number(value: Any) -> float | None:
    """A finite number; None for what is none."""
    try:
        number = float(value)
    except Exception:
        return None
    return number if math.isfinite(number) else None


def _ask(message: Message, answer_seconds: float) -> Message:
    """Send one message and give the last line of the answer. Raises `OSError`, `ValueError`.

    `answer_seconds` is for the whole answer, of which a line comes every second.
    """
    deadline = time.monotonic() + answer_seconds
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_CONNECT_SECONDS)
        _connect(connection)
        connection.sendall(json.dumps(message).encode() + b"\n")
        rest = b""
        while True:
            connection.settimeout(max(min(deadline - time.monotonic(), _ANSWER_SECONDS), 0.01))
            more = connection.recv(65536)
            if not more or len(rest) > _MAX_REPLY:
                raise ValueError("the daemon broke off")
            *lines, rest = (rest + more).split(b"\n")
            for line in lines:
                reply = json.loads(line)
                if reply.get("ok") is True:
                    return dict(reply)
                if "ok" in reply:
                    raise ValueError(str(reply.get("error")))
            if time.monotonic() > deadline:
                raise TimeoutError("the daemon has not answered in time")


def _connect(connection: socket.socket) -> None:
    refused: OSError = FileNotFoundError("no daemon was found")
    for place in _places():
        try:
            if len(os.fsencode(place)) <= _MAX_ADDRESS:
                return connection.connect(str(place))
            folder = os.open(place.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return connection.connect(f"/proc/self/fd/{folder}/{place.name}")
            finally:
                os.close(folder)
        except OSError as error:
            refused = error
    raise refused


def _places() -> Iterator[Path]:
    """Where a daemon may listen: where `BACKUPD_SOCKET` says, else the system's and the user's."""
    given = os.environ.get("BACKUPD_SOCKET")
    if given:
        yield Path(given)
        return
    yield Path("/run/backupd/trainer.sock")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        yield Path(runtime, "backupd", "trainer.sock")
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path("~/.local/state").expanduser()
    yield base / "backupd" / "control.sock"
    yield Path("/var/lib/backupd/control.sock")


_said: set[str] = set()


def _complain(error: Exception) -> None:
    """Say once of each trouble what it is; a training log is no place to repeat it."""
    kind = type(error).__name__
    if kind not in _said:
        _said.add(kind)
        _LOG.warning("backupd was not told: %s", error)


_SENDER = _Sender()


def _begin_anew() -> None:
    """In a child of fork(2) there is no thread, and what waits is the parent's to send."""
    global _SENDER
    _SENDER = _Sender()


os.register_at_fork(after_in_child=_begin_anew)
atexit.register(lambda: _SENDER.drain(_EXIT_SECONDS))
