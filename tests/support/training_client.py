"""The training program's side in tests: a sender of each test's own, and how long calls take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from backupd import client

_MOST_ROUNDS = 50
_PATIENCE_SECONDS = 100.0


@contextmanager
def own_sender(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A sender that sends nothing any more afterwards, when it would reach the next test's daemon.

    Whatever it talks to must still be there when the block ends, or be away for good.
    """
    sender = client._Sender()
    monkeypatch.setattr(client, "_SENDER", sender)
    yield
    with sender._wakeup:
        sender._waiting.clear()
    sender.drain(_PATIENCE_SECONDS)
    assert not sender._busy


def best_round(
    call: Callable[[int], None], *, calls: int, enough_seconds: float, pause_seconds: float = 0.0
) -> float:
    """What 95 of a hundred calls take at most, in the best of the rounds until it is little enough.

    Another process may take the core away in any round; what is slow by itself is slow in each.
    """
    best = float("inf")
    for _ in range(_MOST_ROUNDS):
        times = []
        for step in range(calls):
            began = time.perf_counter()
            call(step)
            times.append(time.perf_counter() - began)
            if pause_seconds:
                time.sleep(pause_seconds)
        best = min(best, sorted(times)[len(times) * 95 // 100])
        if best < enough_seconds:
            break
    return best
