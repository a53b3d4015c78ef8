"""Progress: nothing for what is quick, a plain line for a log, nothing with --json and --quiet."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from backupd.cli.app import App
from backupd.cli.progress import (
    ShownProgress,
    State,
    _rich_bar,
    progress_line,
    shown_progress,
)
from backupd.operations.progress import NoProgress


class Recorder:
    def __init__(self) -> None:
        self.drawn: list[tuple[str, int]] = []
        self.notes: list[str] = []
        self.closed = False

    def draw(self, state: State) -> None:
        self.drawn.append((state.phase, state.done_bytes))

    def note(self, message: str) -> None:
        self.notes.append(message)

    def close(self) -> None:
        self.closed = True


def wait_for(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_what_is_quick_draws_nothing() -> None:
    recorder = Recorder()
    progress = ShownProgress(recorder, after_seconds=60)
    progress.begin("store", 100)
    progress.advance(100)
    progress.close()
    assert recorder.drawn == []
    assert recorder.closed


def test_what_takes_longer_is_drawn_as_it_goes() -> None:
    recorder = Recorder()
    progress = ShownProgress(recorder, after_seconds=0, tick=0.001)
    progress.begin("store", 100)
    progress.advance(60)
    wait_for(lambda: ("store", 60) in recorder.drawn)
    progress.advance(40)
    wait_for(lambda: ("store", 100) in recorder.drawn)
    progress.close()


def test_a_note_is_shown_at_once_and_made_harmless() -> None:
    recorder = Recorder()
    progress = ShownProgress(recorder, after_seconds=60)
    progress.note("left out: a\x1bb")
    progress.close()
    assert recorder.notes == ["left out: a\\x1bb"]


def test_a_line_tells_share_rate_and_time_left() -> None:
    state = State("store", 4_000_000_000, started=100.0)
    state.done_bytes = 1_000_000_000
    assert progress_line(state, 110.0) == "storing: 1.00 GB of 4.00 GB (25 %), 100 MB/s, 30 s left"


def test_a_line_without_a_total_tells_what_is_done() -> None:
    state = State("scan", None, started=100.0)
    state.items = 1234
    assert progress_line(state, 110.0) == "scanning: 1,234 items"


@pytest.mark.parametrize("app", [App(json=True), App(quiet=True)])
def test_json_and_quiet_show_no_progress(app: App) -> None:
    with shown_progress(app) as progress:
        assert isinstance(progress, NoProgress)


def test_without_a_terminal_notes_are_plain_lines_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with shown_progress(App()) as progress:
        progress.note("a.bin never held still")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "note: a.bin never held still\n"


def test_what_is_counted_in_items_has_no_bytes() -> None:
    bar = _rich_bar()
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)

    def drawn() -> str:
        with console.capture() as shown:
            console.print(bar.get_renderable())
        return shown.get()

    counted = bar.add_task("look at snapshots", total=None, items="32 items")
    line = drawn()
    assert "32 items" in line
    assert "bytes" not in line
    bar.remove_task(counted)
    bar.add_task("storing", total=2_000_000, completed=1_000_000, items="")
    assert "1.0/2.0 MB" in drawn()
