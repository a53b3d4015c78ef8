"""What a model's policies will keep as time goes on, were every tick of its schedule a snapshot.

Pure: it plays schedule and forget forward over plain values; nothing is read and nothing changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice

from backupd.policy.cron import Cron
from backupd.policy.retention import Candidate, Decision, Rules, decide

# A snapshot every five minutes for a year; about two seconds of work.
MAX_TICKS = 105_120


@dataclass(frozen=True, slots=True)
class SimulatedForget:
    """The state after one run of forget. Times in seconds since the epoch.

    `taken` and `forgotten` count since the run before.
    """

    time: float
    taken: int
    forgotten: int
    kept: int
    oldest: float


@dataclass(frozen=True, slots=True)
class Simulation:
    """Every run of forget until `end`, and what is kept after the last, newest first."""

    start: float
    end: float
    runs: tuple[SimulatedForget, ...]
    kept: tuple[Decision, ...] = field(default=())

    @property
    def most_kept(self) -> int:
        """The most snapshots that any run leaves."""
        return max((run.kept for run in self.runs), default=len(self.kept))


def simulate(
    candidates: Sequence[Candidate],
    rules: Sequence[Rules],
    *,
    schedule: Cron,
    forget: Cron | None,
    now: float,
    duration: timedelta,
    timezone: tzinfo = UTC,
) -> Simulation:
    """Play `duration` from `now` on: a snapshot at each tick of `schedule`, thinned by `forget`.

    `candidates` are the snapshots of today. Both schedules are read in `timezone`; without
    `forget` nothing is ever thinned, and what no rule keeps is in `kept` without a reason. New
    snapshots carry neither labels nor metrics. Raises `ValueError("what is wrong; the mend")`
    where there are more ticks than `MAX_TICKS`.
    """
    end = now + duration.total_seconds()
    kept = sorted(candidates, key=lambda candidate: candidate.version)
    version = kept[-1].version if kept else 0
    ticks = deque(islice(_ticks(schedule, now, end, timezone), MAX_TICKS + 1))
    if len(ticks) > MAX_TICKS:
        raise ValueError(
            f"the schedule {schedule.text!r} makes more than {MAX_TICKS} snapshots in that time;"
            " ask for a shorter one"
        )
    runs: list[SimulatedForget] = []
    # A last run at the end, so that the answer is for the day that was asked for.
    runs_of_forget = _bounded_runs(forget, now, end, timezone) if forget is not None else ()
    for moment in (*runs_of_forget, end):
        taken = 0
        while ticks and ticks[0] <= moment:
            version += 1
            taken += 1
            kept.append(Candidate(version, ticks.popleft(), {}, {}))
        before = len(kept)
        if forget is not None:
            decisions = decide(kept, rules, moment, timezone)
            kept = [decision.candidate for decision in decisions if decision.keep]
        runs.append(
            SimulatedForget(
                time=moment,
                taken=taken,
                forgotten=before - len(kept),
                kept=len(kept),
                oldest=min((candidate.time for candidate in kept), default=moment),
            )
        )
    final = decide(kept, rules, end, timezone)
    newest_first = sorted(final, key=lambda decision: -decision.candidate.version)
    return Simulation(now, end, tuple(runs), tuple(newest_first))


def _bounded_runs(cron: Cron, start: float, end: float, timezone: tzinfo) -> Iterator[float]:
    """The runs of forget, daily at the most: more runs cost much and show nothing more."""
    last = start - 86400.0
    for moment in _ticks(cron, start, end, timezone):
        if moment - last >= 43200.0:
            last = moment
            yield moment


def _ticks(cron: Cron, start: float, end: float, timezone: tzinfo) -> Iterator[float]:
    """The moments after `start`, up to and with `end`, at which a schedule fires."""
    local = datetime.fromtimestamp(start, timezone).replace(tzinfo=None)
    # Cron counts in wall-clock time. In the hour that summer time repeats the wall clock may be
    # ahead of the moment, so the moment is looked at as well.
    for tick in cron.after(local):
        moment = tick.replace(tzinfo=timezone).timestamp()
        if moment > end:
            return
        if moment > start:
            yield moment
