"""How a command asks the running daemon; quick to import, and never hangs on a daemon that does.

Whether a daemon runs is found by asking: `DaemonAbsentError` is the sign to do the work oneself.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from backupd.daemon.wire import (
    MAX_REPLY_BYTES,
    SOCKET_NAME,
    Lines,
    SnapshotResult,
    decode_info,
    decode_result,
    encode_line,
    socket_address,
)
from backupd.errors import EXIT_FAILED, BackupdError
from backupd.operations.reports import SnapshotInfo

CONNECT_SECONDS = 2.0
_RETRY_CONNECT_SECONDS = 0.02
# A daemon answers `status` in milliseconds, and while a job is waited for it sends a line a second.
ANSWER_SECONDS = 15.0
# `list` reads from the targets.
LIST_SECONDS = 120.0


class DaemonAbsentError(BackupdError):
    """No daemon runs in this state folder."""


class DaemonDeniedError(BackupdError):
    """There may be a daemon, and this user may not ask it."""


class DaemonSilentError(BackupdError):
    """The daemon is there and does not answer, or broke off."""


class DaemonRefusedError(BackupdError):
    """The daemon's own answer is an error; it keeps its hint and exit code."""

    def __init__(self, message: str, *, hint: str, exit_code: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


EventSink = Callable[[Mapping[str, Any]], None]


def status(state_dir: Path) -> dict[str, Any]:
    """The daemon's status, as `daemon.status` describes it.

    Raises `DaemonAbsentError`, `DaemonDeniedError`, `DaemonSilentError`, `DaemonRefusedError`.
    """
    return ask(state_dir, {"op": "status"})


def list_snapshots(
    state_dir: Path,
    *,
    model: str = "",
    host: str = "",
    labels: Mapping[str, str] | None = None,
    targets: Iterable[str] | None = None,
) -> list[SnapshotInfo]:
    """As `operations.catalog.list_snapshots`, done by the daemon. Raises as `status` does."""
    request = {
        "op": "list",
        "model": model,
        "host": host,
        "labels": dict(labels or {}),
        "targets": None if targets is None else list(targets),
    }
    reply = ask(state_dir, request, answer_seconds=LIST_SECONDS)
    with _well_formed():
        return [decode_info(info) for info in reply["snapshots"]]


def snapshot(
    state_dir: Path,
    models: Iterable[str],
    *,
    labels: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    scheme: str = "",
    step: int | None = None,
    epoch: float | None = None,
    now: bool = False,
    wait: bool = True,
    on_event: EventSink | None = None,
) -> list[SnapshotResult]:
    """Have the daemon take a snapshot of each model (all when none is named).

    With `now` nothing that is being written is waited for. Without `wait` each result's state is
    `pending`. With it, `on_event` is given what goes on:
    `{"event": "progress", "model", "state", "phase", "done_bytes", "total_bytes", "items"}` about
    once a second, and `{"event": "note", "model", "message"}`. Leaving early does not stop the
    job. Raises as `status` does.
    """
    request = {
        "op": "snapshot",
        "models": list(models),
        "labels": dict(labels or {}),
        "metrics": dict(metrics or {}),
        "scheme": scheme,
        "step": step,
        "epoch": epoch,
        "now": now,
        "wait": wait,
    }
    reply = ask(state_dir, request, on_event=on_event)
    with _well_formed():
        return [decode_result(result) for result in reply["results"]]


def ask(
    state_dir: Path,
    request: Mapping[str, object],
    *,
    on_event: EventSink | None = None,
    answer_seconds: float = ANSWER_SECONDS,
) -> dict[str, Any]:
    """Send one request, and give its final reply; events before it go to `on_event`.

    No two lines of an answer may be further apart than `answer_seconds`. Raises as `status` does.
    """
    place = state_dir / SOCKET_NAME
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONNECT_SECONDS)
        _connect(connection, state_dir, place)
        try:
            # A daemon that refuses a caller says why and closes without reading.
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(encode_line(request))
            connection.settimeout(answer_seconds)
            lines = Lines(connection, MAX_REPLY_BYTES)
            while (reply := lines.read()) is not None:
                if "ok" in reply:
                    return _accepted(reply)
                if on_event is not None:
                    on_event(reply)
        except TimeoutError:
            raise DaemonSilentError(
                f"the daemon at {place} has not answered for {answer_seconds:.0f} s",
                hint="`systemctl status backupd` or its log says what it is doing; restart it",
            ) from None
        except (OSError, ValueError) as error:
            raise _broken_off(place, str(error)) from None
        raise _broken_off(place, "it closed the connection")


def wait_until_ready(state_dir: Path, seconds: float) -> bool:
    """Whether a daemon answers within so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            status(state_dir)
        except DaemonAbsentError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def _connect(connection: socket.socket, state_dir: Path, place: Path) -> None:
    deadline = time.monotonic() + CONNECT_SECONDS
    try:
        with socket_address(state_dir) as address:
            while True:
                try:
                    return connection.connect(address)
                except BlockingIOError:
                    # Many connect at once: connect(2) of a Unix socket with a timeout does not
                    # wait for room in the queue, but gives EAGAIN.
                    if time.monotonic() >= deadline:
                        raise
                    time.sleep(_RETRY_CONNECT_SECONDS)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        raise DaemonAbsentError(
            f"no daemon answers at {place}",
            hint="start it with `systemctl start backupd` or `backupd run`",
        ) from None
    except PermissionError:
        raise DaemonDeniedError(
            f"the daemon at {place} answers its own user and root only",
            hint="run the command as that user, or with sudo",
        ) from None
    except (TimeoutError, BlockingIOError):
        raise DaemonSilentError(
            f"the daemon at {place} does not accept a connection",
            hint="`systemctl status backupd` or its log says what it is doing; restart it",
        ) from None
    except OSError as error:
        raise DaemonAbsentError(f"no daemon answers at {place}: {error.strerror}") from None


def _accepted(reply: dict[str, Any]) -> dict[str, Any]:
    if reply["ok"] is True:
        return reply
    code = reply.get("exit_code")
    raise DaemonRefusedError(
        str(reply.get("error") or "the daemon refused, and gave no reason"),
        hint=str(reply.get("hint") or ""),
        exit_code=code if isinstance(code, int) else EXIT_FAILED,
    )


def _broken_off(place: Path, why: str) -> DaemonSilentError:
    return DaemonSilentError(
        f"the daemon at {place} broke off: {why}",
        hint="its log says why; what it had stored is kept",
    )


class _well_formed:  # noqa: N801 - reads as a phrase
    """An answer of another shape than expected comes from a daemon of another version."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None and issubclass(kind, (TypeError, KeyError, ValueError)):
            raise DaemonSilentError(
                "the daemon's answer is not understood; it may be of another version",
                hint="restart the daemon: `systemctl restart backupd`",
            ) from None
