"""A trainer that writes holds its model, and never for ever."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from backupd.daemon.holds import Holds
from backupd.errors import UsageError
from tests.unit.daemon_fakes import eventually


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_hold_lasts_until_its_release() -> None:
    holds = Holds(Clock())
    holds.hold("llama", "a", pid=os.getpid(), seconds=60)
    holds.hold("llama", "b", pid=os.getpid(), seconds=60)
    assert str(os.getpid()) in holds.holder("llama") and not holds.holder("bert")
    holds.release("a", pid=os.getpid())
    assert holds.holder("llama")
    holds.release("b", pid=os.getpid())
    holds.release("b", pid=os.getpid())
    assert not holds.holder("llama")


def test_a_hold_ends_with_its_time_which_is_an_hour_at_most() -> None:
    clock = Clock()
    holds = Holds(clock)
    holds.hold("llama", "a", pid=os.getpid(), seconds=1e12)
    clock.now += 3599
    assert holds.holder("llama")
    clock.now += 2
    assert not holds.holder("llama")


def test_a_hold_ends_with_its_process() -> None:
    holds = Holds()
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"],
                               stdin=subprocess.PIPE)  # fmt: skip
    holds.hold("llama", "a", pid=process.pid, seconds=3600)
    assert holds.holder("llama")
    process.kill()
    process.wait()
    eventually(lambda: not holds.holder("llama"))


def test_nobody_releases_what_another_holds() -> None:
    holds = Holds(Clock())
    holds.hold("llama", "a", pid=os.getpid(), seconds=60)
    holds.release("a", pid=1)
    assert holds.holder("llama")


def test_there_is_an_end_to_how_many_may_hold() -> None:
    holds = Holds(Clock())
    for number in range(256):
        holds.hold("llama", str(number), pid=0, seconds=60)
    with pytest.raises(UsageError):
        holds.hold("llama", "more", pid=0, seconds=60)
    holds.hold("llama", "0", pid=0, seconds=60)
