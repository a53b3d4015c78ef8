"""The queue of jobs: few workers, one job per model at a time, equal waiting jobs made one.

Copies have a worker for each target, so that a slow or absent one holds up none of the others.

What a job does is given as `perform`; nothing here knows of models, clocks on the wall or disks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from backupd.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED
from backupd.operations.progress import Progress
from backupd.operations.reports import SnapshotReport


class Kind(StrEnum):
    """What a job does. Upkeep (all but snapshots and copies) has a worker of its own, so that a
    check of hours does not hold up the next snapshot.
    """

    SNAPSHOT = "snapshot"
    COPY = "copy"
    FORGET = "forget"
    PRUNE = "prune"
    CHECK = "check"
    EXTEND = "extend"
    DRILL = "drill"


class State(StrEnum):
    """Where a job is, and in the end how it ended."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked for: `name` is a model's, a target's, or empty (forget takes all).

    `target` is where a copy goes, and empty for all else. `labels` and `metrics` are sorted
    pairs; `scheme` is empty for the configured one; `step` and `epoch` are where the training
    stands, if somebody said. `asked` tells a wish from a schedule, and with `now` it does not
    wait. Of those with `newest` the last one asked for stands for all that have not begun. Why it
    runs is not part of what it is.
    """

    kind: Kind
    name: str
    labels: tuple[tuple[str, str], ...] = ()
    metrics: tuple[tuple[str, float], ...] = ()
    scheme: str = ""
    target: str = ""
    step: int | None = None
    epoch: float | None = None
    asked: bool = False
    now: bool = False
    newest: bool = False
    reason: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        """`snapshot:llama-ft` or `copy:llama-ft@nas`: what may run once at a time."""
        return f"{self.kind}:{self.name}" + (f"@{self.target}" if self.target else "")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended. `error` and `hint` are empty where nothing is missing."""

    state: State
    error: str = ""
    hint: str = ""
    exit_code: int = EXIT_DONE
    report: SnapshotReport | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """The job cannot be done yet: it waits for `seconds` more, without a worker, for `reason`."""

    seconds: float
    reason: str


class JobProgress:
    """The progress of one job, kept to be looked at; methods come from any thread."""

    _KEPT_NOTES = 200

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phase = ""
        self._total: int | None = None
        self._done = 0
        self._items = 0
        self._notes: list[str] = []

    def begin(self, phase: str, total_bytes: int | None = None) -> None:
        """See `operations.progress.Progress`."""
        with self._lock:
            self._phase, self._total, self._done, self._items = phase, total_bytes, 0, 0

    def grow(self, total_bytes: int) -> None:
        """See `operations.progress.Progress`."""
        with self._lock:
            self._total = (self._total or 0) + total_bytes

    def advance(self, done_bytes: int, items: int = 0) -> None:
        """See `operations.progress.Progress`."""
        with self._lock:
            self._done += done_bytes
            self._items += items

    def note(self, message: str) -> None:
        """See `operations.progress.Progress`."""
        with self._lock:
            if len(self._notes) < self._KEPT_NOTES and message not in self._notes[-1:]:
                self._notes.append(message)

    def notes(self) -> tuple[str, ...]:
        """The notes so far, the first 200 of them."""
        with self._lock:
            return tuple(self._notes)

    def seen(self) -> dict[str, object]:
        """How far it is: `phase`, `done_bytes`, `total_bytes` (or None), `items`."""
        with self._lock:
            return {
                "phase": self._phase,
                "done_bytes": self._done,
                "total_bytes": self._total,
                "items": self._items,
            }


class Ticket:
    """A job in the queue. `ended` is set when there is an outcome."""

    def __init__(self, job: Job, stop: threading.Event) -> None:
        self.job = job
        self.stop = stop
        self.state = State.PENDING
        self.progress = JobProgress()
        self.ended = threading.Event()
        self.outcome: Outcome | None = None
        self.since = time.monotonic()  # in its state, CLOCK_MONOTONIC
        self.not_before = 0.0  # CLOCK_MONOTONIC

    def end(self, outcome: Outcome) -> None:
        """Give the outcome to those who wait."""
        self.outcome = outcome
        self.state = outcome.state
        self.ended.set()


Perform = Callable[[Job, Progress, threading.Event], Outcome | Later]


class JobQueue:
    """Runs jobs in threads. `perform` does one job and should not raise."""

    def __init__(
        self,
        perform: Perform,
        *,
        snapshot_workers: int = 2,
        on_crash: Callable[[Job, BaseException], None] = lambda job, error: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_crash` is told what `perform` raised all the same, `on_end` that a job has ended."""
        self._perform = perform
        self._on_crash = on_crash
        self._on_end = on_end
        self._wakeup = threading.Condition()
        self._pending: list[Ticket] = []
        self._running: dict[str, Ticket] = {}
        self._stopping = False
        self._started = False
        self._copying: dict[str, threading.Thread] = {}
        # Daemon threads: an upload that hangs in the kernel must not keep the process.
        self._threads = [
            *(self._lane(f"snapshot-{n}", _is_snapshot) for n in range(snapshot_workers)),
            self._lane("upkeep", _is_upkeep),
        ]

    def start(self) -> None:
        """Start the workers."""
        with self._wakeup:
            self._started = True
            threads = list(self._threads)
        for thread in threads:
            thread.start()

    def serve_targets(self, names: Iterable[str]) -> None:
        """See that each of these targets has a worker for its copies."""
        with self._wakeup:
            fresh = []
            for name in names:
                if name not in self._copying:
                    lane = self._lane(f"copy-{name}", partial(_is_copy, name))
                    self._copying[name] = lane
                    fresh.append(lane)
            self._threads += fresh
            started = self._started
        for thread in fresh if started else ():
            thread.start()

    def _lane(self, name: str, takes: Callable[[Job], bool]) -> threading.Thread:
        return threading.Thread(target=self._work, args=(takes,), name=name, daemon=True)

    def submit(self, job: Job) -> Ticket:
        """Queue a job, or join an equal one that has not begun."""
        with self._wakeup:
            for ticket in self._pending:
                if ticket.job == job:
                    return ticket
                if job.newest and ticket.job.newest and ticket.job.key == job.key:
                    ticket.job = job
                    return ticket
            ticket = Ticket(job, threading.Event())
            if self._stopping:
                ticket.end(_STOPPED)
                return ticket
            self._pending.append(ticket)
            self._wakeup.notify_all()
            return ticket

    def tickets(self) -> list[Ticket]:
        """Those that run, then those that wait."""
        with self._wakeup:
            return [*self._running.values(), *self._pending]

    def is_busy(self, key: str) -> bool:
        """Whether a job of that key runs or waits."""
        with self._wakeup:
            return key in self._running or any(t.job.key == key for t in self._pending)

    def alive(self) -> bool:
        """Whether every worker's thread still is."""
        with self._wakeup:
            return all(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Take no more jobs, end those that wait, and tell those that run to stop."""
        with self._wakeup:
            self._stopping = True
            dropped, self._pending = self._pending, []
            running = list(self._running.values())
            self._wakeup.notify_all()
        for ticket in dropped:
            ticket.end(_STOPPED)
        for ticket in running:
            ticket.stop.set()

    def join(self, seconds: float) -> bool:
        """Whether all workers ended within so many seconds, after `stop`."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self, takes: Callable[[Job], bool]) -> None:
        while (ticket := self._take(takes)) is not None:
            try:
                outcome = self._perform(ticket.job, ticket.progress, ticket.stop)
            except BaseException as error:
                self._on_crash(ticket.job, error)
                outcome = Outcome(
                    State.FAILED,
                    f"this is a bug in backupd: {type(error).__name__}: {error}",
                    "please report it with what the daemon's log says",
                    EXIT_FAILED,
                )
            with self._wakeup:
                del self._running[ticket.job.key]
                if isinstance(outcome, Later):
                    outcome = self._put_back(ticket, outcome) or _STOPPED
                self._wakeup.notify_all()
            if isinstance(outcome, Later):
                continue
            ticket.end(outcome)
            self._on_end()

    def _put_back(self, ticket: Ticket, later: Later) -> Later | None:
        """Let a job wait; None where nothing waits any more."""
        if self._stopping:
            return None
        ticket.progress.begin("settle")
        ticket.progress.note(f"waiting: {later.reason}")
        ticket.state = State.PENDING
        ticket.since = time.monotonic()
        ticket.not_before = ticket.since + later.seconds
        self._pending.append(ticket)
        return later

    def _take(self, takes: Callable[[Job], bool]) -> Ticket | None:
        """The first job of a lane whose key does not run yet; None when stopping."""
        with self._wakeup:
            while not self._stopping:
                now = time.monotonic()
                pause: float | None = None
                for ticket in self._pending:
                    if not takes(ticket.job) or ticket.job.key in self._running:
                        continue
                    if ticket.not_before > now:
                        left = ticket.not_before - now
                        pause = left if pause is None else min(pause, left)
                        continue
                    self._pending.remove(ticket)
                    self._running[ticket.job.key] = ticket
                    ticket.state = State.RUNNING
                    ticket.since = now
                    return ticket
                self._wakeup.wait(pause)
            return None


def _is_snapshot(job: Job) -> bool:
    return job.kind is Kind.SNAPSHOT


def _is_copy(target: str, job: Job) -> bool:
    return job.kind is Kind.COPY and job.target == target


def _is_upkeep(job: Job) -> bool:
    return job.kind not in (Kind.SNAPSHOT, Kind.COPY)


_STOPPED = Outcome(
    State.STOPPED, "the daemon is stopping", "ask again when it runs", EXIT_INTERRUPTED
)
