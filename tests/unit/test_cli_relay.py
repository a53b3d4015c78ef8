"""What the daemon's events and answers become on the screen of the one who asked."""

from __future__ import annotations

import pytest

from backupd.cli.app import App
from backupd.cli.commands.snapshot import RelayedProgress, combined, say_report
from backupd.operations.reports import SnapshotInfo, SnapshotReport, TargetResult


class Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def begin(self, phase: str, total_bytes: int | None = None) -> None:
        self.calls.append(("begin", phase))

    def grow(self, total_bytes: int) -> None:
        self.calls.append(("grow", total_bytes))

    def advance(self, done_bytes: int, items: int = 0) -> None:
        self.calls.append(("advance", done_bytes))

    def note(self, message: str) -> None:
        self.calls.append(("note", message))


def event(done: int, total: int, phase: str = "store") -> dict[str, object]:
    return {
        "event": "progress",
        "model": "m",
        "phase": phase,
        "done_bytes": done,
        "total_bytes": total,
    }


def test_states_of_the_daemon_add_up_to_progress() -> None:
    recorder = Recorder()
    relay = RelayedProgress(recorder)
    for sent in (event(10, 100), event(60, 150), event(5, 0, "copy"), {"event": "unknown"}):
        relay(sent)
    relay({"event": "note", "message": "left out: x"})
    assert recorder.calls == [
        ("begin", "store"),
        ("grow", 100),
        ("advance", 10),
        ("grow", 50),
        ("advance", 50),
        ("begin", "copy"),
        ("advance", 5),
        ("note", "left out: x"),
    ]


@pytest.mark.parametrize(
    ("codes", "code"),
    [([], 0), ([0, 0], 0), ([5, 5], 5), ([0, 5], 3), ([3, 6], 3), ([5, 6], 1), ([7], 7)],
)
def test_several_parts_end_with_one_exit_code(codes: list[int], code: int) -> None:
    assert combined(codes) == code


def test_a_snapshot_that_lacks_something_says_what(capsys: pytest.CaptureFixture[str]) -> None:
    info = SnapshotInfo(
        id="00",
        host="h",
        model="m",
        version=4,
        time=0.0,
        root="/m",
        parent=3,
        labels={},
        metrics={},
        file_count=2,
        size_bytes=2000,
        added_bytes=1000,
        stored_bytes=900,
        duration_seconds=1.0,
        incomplete=("a.bin", "b.bin"),
        skipped=(),
    )
    results = (TargetResult("disk", 4, 900), TargetResult("nas", 0, 0, "the mount is absent"))
    torn = ("a.bin: ends early", "b.bin: ends early")
    say_report(App(), SnapshotReport("m", False, info, results, torn, incomplete=torn))
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "m@v4: 2 files, 2.00 kB",
        "  1.00 kB new, stored as 900 B on disk in 1.0 s",
    ]
    assert captured.err.splitlines() == [
        "warning: m is incomplete: a.bin: ends early",
        "warning: m is incomplete: b.bin: ends early",
        "warning: m is not on nas: the mount is absent",
    ]
