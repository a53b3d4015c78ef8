"""Ctrl-C asks an operation to stop first, and ends it when asked again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from backupd.cli.stopping import stop_on_signal
from backupd.errors import StoppedError


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Ctrl-C as it is in a shell: a program that a script put into the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_to_stop_and_says_so(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with stop_on_signal() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(60)
    assert "stopping" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_the_second_signal_ends_it_and_says_that_what_was_stored_is_kept() -> None:
    with pytest.raises(StoppedError) as raised, stop_on_signal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(60)
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    assert "whatever was stored is kept" in raised.value.hint


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.wait(0.05)
    finally:
        signal.signal(signal.SIGHUP, before)
