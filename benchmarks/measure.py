"""Runs one command and says what it cost: wall time, CPU time, peak memory of its process tree.

Linux only: reads /proc. What is run, and why, is decided elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SAMPLE_SECONDS = 0.01
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Command:
    """What is to be run, where, and with which variables added to the environment."""

    arguments: tuple[str, ...]
    directory: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took.

    `peak_bytes` is the largest resident size of all its processes together, as sampled, and never
    less than the high-water mark of any one of them. `others_share` is the share of the machine's
    CPU time that other processes used meanwhile: a figure taken on a busy machine says so.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    others_share: float

    def __add__(self, other: Cost) -> Cost:
        seconds = self.seconds + other.seconds
        others = self.others_share * self.seconds + other.others_share * other.seconds
        return Cost(
            seconds,
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_bytes, other.peak_bytes),
            others / seconds if seconds else 0.0,
        )


class CommandFailedError(Exception):
    """A measured command ended with another exit code than 0."""


def environment(command: Command) -> dict[str, str]:
    """The variables that a command is run with.

    Programs in Python keep their bytecode, as they do where they are installed: without it every
    start compiles the whole of them.
    """
    inherited = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, **command.environment}


def run(command: Command) -> Cost:
    """Run `command` to its end and return its cost. Raises CommandFailedError, OSError."""
    with tempfile.TemporaryFile() as output:
        # The kernel carries the size of the parent before exec over into the child's ru_maxrss,
        # which therefore says something of the child only where it is larger.
        own = _memory(os.getpid())[1]
        busy = _machine_cpu_seconds()
        started = time.perf_counter()
        process = subprocess.Popen(
            command.arguments,
            cwd=command.directory,
            env=environment(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        with _PeakOfTree(process.pid) as peak:
            # Popen.wait would reap the child and lose its resource usage.
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        busy = _machine_cpu_seconds() - busy
        if process.returncode != 0:
            output.seek(0)
            said = output.read()[-2000:].decode(errors="replace").strip()
            raise CommandFailedError(
                f"{' '.join(command.arguments)} ended with code {process.returncode}: {said}"
            )
    peak_bytes = max(peak.bytes, usage.ru_maxrss << 10 if usage.ru_maxrss << 10 > own else 0)
    cpu_seconds = usage.ru_utime + usage.ru_stime
    available = seconds * (os.cpu_count() or 1)
    return Cost(seconds, cpu_seconds, peak_bytes, max(0.0, (busy - cpu_seconds) / available))


class _PeakOfTree:
    """Samples the memory of a process and its descendants while the block runs."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> _PeakOfTree:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.is_set():
            now, marks = 0, [0]
            for pid in _tree(self._pid):
                resident, mark = _memory(pid)
                now += resident
                marks.append(mark)
            self.bytes = max(self.bytes, now, *marks)
            self._ended.wait(SAMPLE_SECONDS)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        try:
            children = Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _tree(int(child))


def _memory(pid: int) -> tuple[int, int]:
    """Resident bytes of a process now and at most; zeros when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    found = dict(line.split(":", 1) for line in lines if line.startswith(("VmRSS", "VmHWM")))
    kib = [int(found.get(name, "0").split()[0]) for name in ("VmRSS", "VmHWM")]
    return kib[0] << 10, kib[1] << 10


def _machine_cpu_seconds() -> float:
    """CPU time that all processes have used since boot, stolen time included."""
    with open("/proc/stat") as file:
        names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
        ticks = dict(zip(names, map(int, file.readline().split()[1:9]), strict=True))
    return sum(value for name, value in ticks.items() if name not in ("idle", "iowait")) / _TICKS


def disk_bytes(folder: Path) -> int:
    """Sum of the sizes of all files below `folder`."""
    return sum(
        os.lstat(os.path.join(parent, name)).st_size
        for parent, _, names in os.walk(folder)
        for name in names
    )
