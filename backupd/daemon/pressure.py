"""Standing back while others on the box wait: work is held up where the kernel's pressure is high.

The kernel tells how much of the last ten seconds some task stood waiting for a disk or a CPU
(pressure stall information: Documentation/accounting/psi.rst of Linux, since 4.20).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from backupd.config.settings import LimitsSettings
from backupd.operations.progress import Progress

LOOK_SECONDS = 1.0
# A box that is always busy must still be backed up: so much is waited at a stretch, and then so
# much worked whatever the pressure.
PAUSE_SECONDS = 300.0
WORK_SECONDS = 30.0
# It goes on below this share of the limit, so that its own work does not stop it at once.
_AGAIN = 0.8

ReadPressure = Callable[[], Mapping[str, float]]


def read_pressure(folder: Path = Path("/proc/pressure")) -> dict[str, float]:
    """Per cent of the last ten seconds in which some task waited, by resource.

    A resource that the kernel does not tell of is absent.
    """
    found = {}
    for resource in ("io", "cpu"):
        try:
            words = (folder / resource).read_text().split()
        except (OSError, ValueError):
            continue
        for word in words[:5]:
            name, _, number = word.partition("=")
            if name == "avg10":
                try:
                    found[resource] = float(number)
                except ValueError:
                    continue
    return found


class Pacer:
    """Holds threads up while the box is under pressure. Safe for several threads."""

    def __init__(
        self,
        limits: LimitsSettings,
        *,
        tell: Callable[[str], None],
        read: ReadPressure = read_pressure,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        """`tell` takes a sentence when work is held up, and one when it goes on."""
        self._limits = {
            resource: limit
            for resource, limit in (
                ("io", limits.pause_above_io_percent),
                ("cpu", limits.pause_above_cpu_percent),
            )
            if limit
        }
        self._tell = tell
        self._read = read
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next_look = 0.0
        self._why = ""
        self._since = 0.0

    def wait(self, stop: threading.Event) -> None:
        """Return when there is no need to stand back, or `stop` is set."""
        while self._limits and self._held() and not stop.is_set():
            self._sleep(stop, LOOK_SECONDS)

    def _held(self) -> bool:
        with self._lock:
            now = self._monotonic()
            if now < self._next_look:
                return bool(self._why)
            self._next_look = now + LOOK_SECONDS
            why = self._pressed(_AGAIN if self._why else 1.0)
            if why and not self._why:
                self._since = now
                self._tell(f"standing back: {why}")
            elif self._why and not why:
                self._tell(f"going on after {now - self._since:.0f} s")
            elif why and now - self._since >= PAUSE_SECONDS:
                self._tell(f"going on for {WORK_SECONDS:.0f} s: {why} for {PAUSE_SECONDS:.0f} s")
                self._next_look = now + WORK_SECONDS
                why = ""
            self._why = why
            return bool(why)

    def _pressed(self, share: float) -> str:
        seen = self._read()
        for resource, limit in self._limits.items():
            if seen.get(resource, 0.0) > limit * share:
                return f"{resource} pressure is {seen[resource]:.0f}%, above {limit:g}%"
        return ""


class PacedProgress:
    """A job's progress that holds its threads up where they report what they have done."""

    def __init__(self, inner: Progress, pacer: Pacer, stop: threading.Event) -> None:
        self._inner = inner
        self._pacer = pacer
        self._stop = stop

    def begin(self, phase: str, total_bytes: int | None = None) -> None:
        """See `operations.progress.Progress`."""
        self._inner.begin(phase, total_bytes)

    def grow(self, total_bytes: int) -> None:
        """See `operations.progress.Progress`."""
        self._inner.grow(total_bytes)

    def advance(self, done_bytes: int, items: int = 0) -> None:
        """See `operations.progress.Progress`."""
        self._inner.advance(done_bytes, items)
        self._pacer.wait(self._stop)

    def note(self, message: str) -> None:
        """See `operations.progress.Progress`."""
        self._inner.note(message)
