"""How far an operation is, on standard error: a bar on a terminal, a line now and then elsewhere.

Nothing is shown for what takes less than a second, and nothing at all with `--json`, `--quiet`
or `--no-progress`. Methods may be called from any thread.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import click

from backupd.cli import formatting
from backupd.cli.app import App
from backupd.operations.progress import NoProgress

if TYPE_CHECKING:
    import rich.progress

    from backupd.operations.progress import Progress

SHOW_AFTER_SECONDS = 1.0
LINE_EVERY_SECONDS = 15.0

_PHASES = {
    "scan": "scanning",
    "settle": "waiting for the model to settle",
    "store": "storing",
    "restore": "restoring",
    "check": "checking",
    "read": "reading",
    "prune": "pruning",
    "replicate": "copying",
}


@contextmanager
def shown_progress(app: App) -> Iterator[Progress]:
    """The progress that fits this invocation; what it drew is gone when the block ends."""
    if not app.chatty:
        yield NoProgress()
        return
    surface = _surface(app)
    shown = ShownProgress(surface)
    try:
        yield shown
    finally:
        shown.close()


def _surface(app: App) -> Surface:
    if not app.progress:
        return _Notes()
    if sys.stderr.isatty() and app.environment.get("TERM", "dumb") != "dumb":
        return _Bar()
    return _Lines()


class Surface(Protocol):
    """Where progress is drawn; called with the lock of `ShownProgress` held."""

    def draw(self, state: State) -> None:
        """Show the state, which changes at each call."""
        ...

    def note(self, message: str) -> None:
        """Show a sentence that stays."""
        ...

    def close(self) -> None:
        """Take away what does not stay."""
        ...


class State:
    """The phase that runs and how far it is."""

    __slots__ = ("done_bytes", "items", "phase", "started", "total_bytes")

    def __init__(self, phase: str, total_bytes: int | None, started: float) -> None:
        self.phase = phase
        self.total_bytes = total_bytes
        self.done_bytes = 0
        self.items = 0
        self.started = started

    @property
    def title(self) -> str:
        """The phase in the user's words."""
        return _PHASES.get(self.phase, self.phase)


class ShownProgress:
    """Progress on one surface, drawn by a thread of its own so that `advance` stays cheap."""

    def __init__(
        self, surface: Surface, *, after_seconds: float = SHOW_AFTER_SECONDS, tick: float = 0.1
    ) -> None:
        self._surface = surface
        self._lock = threading.Lock()
        self._state: State | None = None
        self._closed = threading.Event()
        self._after_seconds = after_seconds
        self._tick = tick
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def begin(self, phase: str, total_bytes: int | None = None) -> None:
        """See `Progress`."""
        with self._lock:
            self._state = State(phase, total_bytes, time.monotonic())

    def grow(self, total_bytes: int) -> None:
        """See `Progress`."""
        with self._lock:
            if self._state is not None:
                self._state.total_bytes = (self._state.total_bytes or 0) + total_bytes

    def advance(self, done_bytes: int, items: int = 0) -> None:
        """See `Progress`."""
        with self._lock:
            if self._state is not None:
                self._state.done_bytes += done_bytes
                self._state.items += items

    def note(self, message: str) -> None:
        """See `Progress`."""
        with self._lock:
            self._surface.note(formatting.printable(message))

    def close(self) -> None:
        """Ends the thread and takes the bar away."""
        self._closed.set()
        self._thread.join()
        with self._lock:
            self._surface.close()

    def _run(self) -> None:
        if self._closed.wait(self._after_seconds):
            return
        while True:
            with self._lock:
                if self._state is not None:
                    self._surface.draw(self._state)
            if self._closed.wait(self._tick):
                return


class _Notes:
    """No bar, only the sentences."""

    def draw(self, state: State) -> None:
        """Nothing is drawn."""

    def note(self, message: str) -> None:
        """See `Surface`."""
        click.echo(f"note: {message}", err=True)

    def close(self) -> None:
        """Nothing was drawn."""


class _Lines(_Notes):
    """For a log or a pipe: one plain line every so often."""

    def __init__(self, every_seconds: float = LINE_EVERY_SECONDS) -> None:
        self._every_seconds = every_seconds
        self._last = time.monotonic()

    def draw(self, state: State) -> None:
        """See `Surface`."""
        now = time.monotonic()
        if now - self._last < self._every_seconds:
            return
        self._last = now
        click.echo(progress_line(state, now), err=True)


def progress_line(state: State, now: float) -> str:
    """`storing: 1.20 GB of 4.00 GB (30 %), 210 MB/s, 13 s left`."""
    seconds = max(now - state.started, 0.001)
    rate = state.done_bytes / seconds
    parts = [formatting.size(state.done_bytes)]
    if state.total_bytes:
        whole = max(state.total_bytes, state.done_bytes)
        share = formatting.percent(state.done_bytes, whole)
        parts[0] += f" of {formatting.size(whole)} ({share})"
    elif state.items:
        parts = [formatting.count(state.items, "item")]
        if state.done_bytes:
            parts.append(formatting.size(state.done_bytes))
    if rate:
        parts.append(f"{formatting.size(rate)}/s")
        if state.total_bytes and state.total_bytes > state.done_bytes:
            left = (state.total_bytes - state.done_bytes) / rate
            parts.append(f"{formatting.span(left)} left")
    return f"{state.title}: {', '.join(parts)}"


class _Bar:
    """A bar with rate and time left; rich is imported (60 ms) when it is first drawn."""

    def __init__(self) -> None:
        self._progress: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None
        self._state: State | None = None

    def draw(self, state: State) -> None:
        """See `Surface`."""
        if self._progress is None:
            self._progress = _rich_bar()
            self._progress.start()
        if self._state is not state or self._task is None:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._state = state
            self._task = self._progress.add_task(state.title, total=state.total_bytes, items="")
        total = state.total_bytes
        counted = state.total_bytes is None and not state.done_bytes
        self._progress.update(
            self._task,
            completed=state.done_bytes,
            total=None if total is None else max(total, state.done_bytes),
            items=formatting.count(state.items, "item") if counted else "",
        )

    def note(self, message: str) -> None:
        """See `Surface`."""
        if self._progress is None:
            click.echo(f"note: {message}", err=True)
        else:
            self._progress.console.print(f"note: {message}", markup=False, highlight=False)

    def close(self) -> None:
        """See `Surface`."""
        if self._progress is not None:
            self._progress.stop()


def _rich_bar() -> rich.progress.Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    # What is counted in items has no bytes, and no rate of them.
    class Done(DownloadColumn):
        def render(self, task: Task) -> Text:
            return Text(task.fields["items"]) if task.fields["items"] else super().render(task)

    class Speed(TransferSpeedColumn):
        def render(self, task: Task) -> Text:
            return Text() if task.fields["items"] else super().render(task)

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        Done(),
        Speed(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=Console(stderr=True),
        transient=True,
        expand=True,
    )
