"""Ctrl-C and SIGTERM while an operation runs: the first asks it to stop, the second insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from backupd.errors import StoppedError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """The event that an operation watches; set by the first signal, which is said on stderr.

    A second one raises where the operation stands, which no repository minds (a crash at any
    instruction leaves it valid). Raises `StoppedError` when it ended so.
    """
    event = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()
        click.echo("\nstopping; once more ends it at once", err=True)

    if threading.current_thread() is not threading.main_thread():
        # Signals are the main thread's; elsewhere (a test, an embedder) there is none to catch.
        yield event
        return
    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        # `nohup` starts us with SIGHUP ignored, and wants it to stay so.
        if previous[number] is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield event
    except KeyboardInterrupt:
        raise StoppedError(
            "interrupted", hint="whatever was stored is kept; the same command goes on from there"
        ) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
