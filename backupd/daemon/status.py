"""What the daemon says of itself, as one JSON document; a function of what is known.

    {"ok": true, "pid", "version", "host", "configuration", "state_dir", "started", "now",
     "reload": {"time", "error"}, "warnings": [...],
     "models": [{"name", "path", "schedule", "timezone", "state", "stale", "watch": {"mode", "why"},
                 "changed", "snapshot", "snapshot_time", "last_run", "last_good", "next_run",
                 "error", "error_time", "failures",
                 "targets": [{"name", "state", "last_good", "version", "owed", "error",
                              "error_time", "failed_since", "failures"}]}],
     "upkeep": [{"job", "target", "state", "last_run", "last_good", "next_run", "error", "note"}],
     "jobs": [{"job", "name", "target", "state", "reason", "seconds", "phase", "done_bytes",
               "total_bytes", "items"}]}

Times are seconds since the epoch, None for never. A model's `state` is `running`, `pending`,
`missing`, `failed`, `partial`, `stale`, `new` (no snapshot yet) or `ok`. Of a model's targets
`version` is the newest that is whole there, `owed` how many later ones it lacks, and `state`
`stored`, `copying`, `pending`, `failed` or `new`. A copy's job names its `target`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from backupd.config.settings import ModelSettings
from backupd.daemon.copies import target_state
from backupd.daemon.queue import Kind, State, Ticket
from backupd.daemon.schedule import Schedule, next_due, stale_since
from backupd.daemon.state import JobRecord, TargetRecord
from backupd.daemon.watcher import Mode, WatchState


def model_status(
    model: ModelSettings,
    record: JobRecord,
    schedule: Schedule,
    watch: WatchState,
    tickets: Sequence[Ticket],
    *,
    changed: bool,
    now: float,
) -> dict[str, object]:
    """One model; `tickets` are all that run or wait."""
    stale = now > stale_since(schedule, record)
    targets = []
    for name in model.targets:
        target = record.targets.get(name, TargetRecord())
        targets.append(
            {
                "name": name,
                "state": target_state(model.name, name, target, tickets),
                "last_good": _time(target.last_good),
                "version": target.version,
                "owed": target.owed,
                "error": target.error,
                "error_time": _time(target.error_time),
                "failed_since": _time(target.failed_since),
                "failures": target.failures,
            }
        )
    return {
        "name": model.name,
        "path": str(model.path),
        "schedule": model.schedule,
        "timezone": model.timezone,
        "state": _state(model, record, watch, tickets, stale=stale),
        "stale": stale,
        "watch": {"mode": str(watch.mode), "why": watch.why},
        "changed": changed,
        "snapshot": record.snapshot,
        "snapshot_time": _time(record.snapshot_time),
        "last_run": _time(record.last_run),
        "last_good": _time(record.last_good),
        "next_run": _time(next_due(schedule, record, now)),
        "error": record.error,
        "error_time": _time(record.error_time),
        "failures": record.failures,
        "targets": targets,
    }


def upkeep_status(
    kind: Kind,
    name: str,
    record: JobRecord,
    schedule: Schedule,
    tickets: Sequence[Ticket],
    *,
    now: float,
) -> dict[str, object]:
    """One upkeep job."""
    states = [t.state for t in tickets if t.job.kind is kind and t.job.name == name]
    state = str(states[0]) if states else "failed" if record.error else "ok"
    return {
        "job": str(kind),
        "target": name,
        "state": state,
        "last_run": _time(record.last_run),
        "last_good": _time(record.last_good),
        "next_run": _time(next_due(schedule, record, now, first=False)),
        "error": record.error,
        "note": record.note,
    }


def job_status(ticket: Ticket, monotonic: float) -> dict[str, object]:
    """One job that runs or waits, and since how many seconds."""
    return {
        "job": str(ticket.job.kind),
        "name": ticket.job.name,
        "target": ticket.job.target,
        "state": str(ticket.state),
        "reason": ticket.job.reason,
        "seconds": round(max(0.0, monotonic - ticket.since), 1),
        **ticket.progress.seen(),
    }


def _state(
    model: ModelSettings,
    record: JobRecord,
    watch: WatchState,
    tickets: Sequence[Ticket],
    *,
    stale: bool,
) -> str:
    states = [
        ticket.state
        for ticket in tickets
        if ticket.job.kind is Kind.SNAPSHOT and ticket.job.name == model.name
    ]
    for state in (State.RUNNING, State.PENDING):
        if state in states:
            return str(state)
    if watch.mode is Mode.MISSING:
        return "missing"
    # A run that stored something left a good time on some target.
    stored = any(target.last_good >= record.last_run for target in record.targets.values())
    if record.error:
        return "partial" if stored and record.last_run else "failed"
    if stale:
        return "stale"
    if any(target.error for target in record.targets.values()):
        return "partial"
    return "ok" if record.last_good else "new"


def _time(moment: float) -> float | None:
    return moment if moment and math.isfinite(moment) else None
