"""A snapshot's bar is told of what lies ahead, in steps that hold nothing up."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

from backupd.capture.scan import Scanned, ScanOptions
from backupd.operations.measuring import Measuring
from backupd.operations.progress import NoProgress
from backupd.repository.tree import FileType


class Bar:
    def __init__(self) -> None:
        self.total = 0

    def begin(self, phase: str, total_bytes: int | None = None) -> None: ...

    def grow(self, total_bytes: int) -> None:
        self.total += total_bytes

    def advance(self, done_bytes: int, items: int = 0) -> None: ...

    def note(self, message: str) -> None: ...


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def scanned(size: int) -> Scanned:
    return Scanned(b"f", FileType.FILE, os.stat_result((0o100644, 1, 1, 1, 0, 0, size, 0, 0, 0)))


def model(path: Path) -> bytes:
    (path / "a" / "b").mkdir(parents=True)
    (path / "skip").mkdir()
    for number in range(600):
        (path / "a" / str(number)).write_bytes(b"x" * 10)
    (path / "a" / "b" / "new").write_bytes(b"y" * 1000)
    (path / "skip" / "no").write_bytes(b"z" * 5000)
    (path / "no.lock").write_bytes(b"z" * 5000)
    (path / "link").symlink_to("a")
    (path / "one").write_bytes(b"h" * 200)
    (path / "two").hardlink_to(path / "one")
    return bytes(path)


def test_nothing_is_measured_in_the_first_second_or_where_nobody_looks(tmp_path: Path) -> None:
    bar, clock = Bar(), Clock()
    measuring = Measuring(model(tmp_path), ScanOptions(), 0.0, bar, clock)
    for _ in range(100):
        measuring.before(scanned(10))
    assert bar.total == 0
    clock.now += 2
    Measuring(b"/nowhere", ScanOptions(), 0.0, NoProgress(), clock).before(scanned(1 << 30))


def test_after_that_a_small_file_brings_a_small_step(tmp_path: Path) -> None:
    bar, clock = Bar(), Clock()
    options = ScanOptions(("skip/", "*.lock"))
    measuring = Measuring(model(tmp_path), options, 0.0, bar, clock)
    clock.now += 2
    seen = []
    for _ in range(20):
        measuring.before(scanned(10))
        seen.append(bar.total)
    assert seen[-1] == 600 * 10 + 1000 + 200
    assert max(after - before for before, after in pairwise(seen)) <= 2560


def test_before_a_large_file_all_is_measured_at_once(tmp_path: Path) -> None:
    bar = Bar()
    measuring = Measuring(model(tmp_path), ScanOptions(("skip/", "*.lock")), 0.0, bar, Clock())
    measuring.before(scanned(1 << 30))
    assert bar.total == 600 * 10 + 1000 + 200


def test_what_did_not_change_is_not_counted(tmp_path: Path) -> None:
    bar = Bar()
    root = model(tmp_path)
    since = os.stat(tmp_path / "a").st_mtime + 1000
    Measuring(root, ScanOptions(), since, bar, Clock()).before(scanned(1 << 30))
    assert bar.total == 0


def test_a_folder_that_is_gone_counts_for_nothing(tmp_path: Path) -> None:
    bar = Bar()
    measuring = Measuring(bytes(tmp_path / "gone"), ScanOptions(), 0.0, bar, Clock())
    measuring.before(scanned(1 << 30))
    assert bar.total == 0
