"""Jobs stand back while the box is under pressure, and never for ever."""

from __future__ import annotations

import threading
from pathlib import Path

from backupd.config.settings import LimitsSettings
from backupd.daemon.pressure import (
    PAUSE_SECONDS,
    WORK_SECONDS,
    PacedProgress,
    Pacer,
    read_pressure,
)
from backupd.operations.progress import NoProgress


class Box:
    """A box whose pressure is set, and whose time passes only while somebody waits."""

    def __init__(self, **pressure: float) -> None:
        self.pressure = pressure
        self.now = 1000.0
        self.waited = 0.0
        self.said: list[str] = []
        self.calm_at = float("inf")

    def read(self) -> dict[str, float]:
        return {} if self.now >= self.calm_at else dict(self.pressure)

    def sleep(self, stop: threading.Event, seconds: float) -> None:
        self.now += seconds
        self.waited += seconds

    def pacer(self, *, io: float = 0.0, cpu: float = 0.0) -> Pacer:
        limits = LimitsSettings(pause_above_io_percent=io, pause_above_cpu_percent=cpu)
        return Pacer(
            limits,
            tell=self.said.append,
            read=self.read,
            monotonic=lambda: self.now,
            sleep=self.sleep,
        )


def test_without_a_limit_nothing_waits_whatever_the_pressure() -> None:
    box = Box(io=100.0, cpu=100.0)
    box.pacer().wait(threading.Event())
    assert box.waited == 0


def test_work_goes_on_below_the_limit() -> None:
    box = Box(io=29.0, cpu=100.0)
    box.pacer(io=30.0).wait(threading.Event())
    assert box.waited == 0 and box.said == []


def test_work_stands_back_above_the_limit_until_it_is_calm_and_says_so() -> None:
    box = Box(io=45.0)
    box.calm_at = box.now + 40
    box.pacer(io=30.0).wait(threading.Event())
    assert 39 <= box.waited <= 41
    assert box.said[0] == "standing back: io pressure is 45%, above 30%"
    assert box.said[1].startswith("going on after")


def test_pressure_just_below_the_limit_does_not_end_a_pause() -> None:
    box = Box(cpu=85.0)
    pacer = box.pacer(cpu=80.0)
    waiting = iter([85.0, 79.0, 70.0, 60.0])

    def fall(stop: threading.Event, seconds: float) -> None:
        box.now += seconds
        box.pressure["cpu"] = next(waiting)

    pacer._sleep = fall
    pacer.wait(threading.Event())
    assert box.pressure["cpu"] == 60.0


def test_a_box_that_is_always_busy_is_backed_up_all_the_same() -> None:
    box = Box(io=100.0)
    pacer = box.pacer(io=30.0)
    pacer.wait(threading.Event())
    assert PAUSE_SECONDS <= box.waited <= PAUSE_SECONDS + 2
    waited = box.waited
    box.now += WORK_SECONDS - 1
    pacer.wait(threading.Event())
    assert box.waited == waited, "it works for a while"
    box.now += 2
    pacer.wait(threading.Event())
    assert box.waited > waited, "and stands back again"


def test_a_stop_ends_the_wait() -> None:
    box = Box(io=100.0)
    stop = threading.Event()
    pacer = box.pacer(io=30.0)
    pacer._sleep = lambda stopped, seconds: stop.set()
    pacer.wait(stop)


def test_a_job_that_reports_what_it_did_is_held_there() -> None:
    box = Box(io=100.0)
    box.calm_at = box.now + 10
    done: list[int] = []

    class Seen(NoProgress):
        def advance(self, done_bytes: int, items: int = 0) -> None:
            done.append(done_bytes)

    PacedProgress(Seen(), box.pacer(io=30.0), threading.Event()).advance(7)
    assert done == [7] and box.waited >= 9


def test_the_kernels_files_are_read_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "io").write_text(
        "some avg10=12.34 avg60=0.38 avg300=0.44 total=5025644\n"
        "full avg10=0.01 avg60=0.08 avg300=0.18 total=3467504\n"
    )
    (tmp_path / "cpu").write_text("nonsense")
    assert read_pressure(tmp_path) == {"io": 12.34}
    assert read_pressure(tmp_path / "absent") == {}
