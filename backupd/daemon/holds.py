"""Models whose trainer is writing: who said so, and until when that counts.

A hold ends with its release, its time, or its process, whichever comes first.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from backupd.errors import UsageError

MAX_SECONDS = 3600.0
_MOST = 256


@dataclass(slots=True)
class _Hold:
    model: str
    pid: int
    process: int
    until: float


class Holds:
    """The holds in force; methods come from any thread."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._holds: dict[tuple[int, str], _Hold] = {}

    def hold(self, model: str, token: str, *, pid: int, seconds: float) -> None:
        """Hold `model` for `seconds` at most. Raises `UsageError` where too many do."""
        with self._lock:
            self._drop_ended()
            key = (pid, token)
            if len(self._holds) >= _MOST and key not in self._holds:
                raise UsageError("too many hold their models", hint="release them")
            until = self._monotonic() + min(max(seconds, 0.0), MAX_SECONDS)
            before = self._holds.pop(key, None)
            if before is not None:
                _close(before)
            self._holds[key] = _Hold(model, pid, _open_process(pid), until)

    def release(self, token: str, *, pid: int) -> None:
        """End a hold; one that is not there has ended."""
        with self._lock:
            hold = self._holds.pop((pid, token), None)
            if hold is not None:
                _close(hold)

    def holder(self, model: str) -> str:
        """Who holds the model, in words; empty where nobody does."""
        with self._lock:
            self._drop_ended()
            for hold in self._holds.values():
                if hold.model == model:
                    return f"its trainer (pid {hold.pid}) is writing"
        return ""

    def _drop_ended(self) -> None:
        now = self._monotonic()
        for key, hold in list(self._holds.items()):
            if hold.until <= now or _has_ended(hold.process):
                del self._holds[key]
                _close(hold)


def _open_process(pid: int) -> int:
    """A descriptor that tells when the process ends (pidfd_open(2)), or -1 where there is none."""
    try:
        return os.pidfd_open(pid) if pid > 0 else -1
    except OSError:
        return -1


def _has_ended(process: int) -> bool:
    if process < 0:
        return False
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(0))


def _close(hold: _Hold) -> None:
    if hold.process >= 0:
        os.close(hold.process)
