"""What each target of a model has, owes and waits for: functions of the records and the time.

A snapshot is stored on the nearest target; the copies to the others are jobs of their own, one
at a time for each model and target. What is owed is kept in the state, so a restart goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from backupd.config.settings import ModelSettings
from backupd.daemon.queue import Job, Kind, State, Ticket
from backupd.daemon.schedule import retry_delay_seconds
from backupd.daemon.state import JobRecord, TargetRecord
from backupd.operations.reports import SnapshotReport, TargetResult

# Once a day all that two targets list is compared, and not only what is known to be owed.
LOOK_SECONDS = 86_400.0
# A state file names no more than this of what is wrong.
MAX_ERROR = 2000


def why_copy(target: TargetRecord) -> str:
    """Why a target that is due is to be brought up to date."""
    if target.failures:
        return "retry"
    return "a snapshot is owed" if target.owed else "all is compared"


def next_copy(target: TargetRecord, *, since: float, now: float) -> float:
    """When a target is to be brought up to date next; `now` or earlier when it is due.

    `since` is when the daemon began: then, and each day, everything is compared.
    """
    if target.failures:
        return target.tried + retry_delay_seconds(target.failures)
    if target.owed or target.looked < since or target.looked > now:
        return now
    return target.looked + LOOK_SECONDS


def is_thorough(target: TargetRecord, *, since: float, now: float) -> bool:
    """Whether more may be missing than the snapshot just taken."""
    looked_lately = since <= target.looked <= now < target.looked + LOOK_SECONDS
    return bool(target.failures) or not looked_lately


def newest_version(record: JobRecord) -> int:
    """The highest version that any target of the model is known to have."""
    return max((target.version for target in record.targets.values()), default=0)


def after_snapshot(
    targets: Mapping[str, TargetRecord],
    model: ModelSettings,
    report: SnapshotReport,
    *,
    started: float,
    now: float,
) -> dict[str, TargetRecord]:
    """The targets' records after a snapshot begun at `started` took place."""
    results = {result.target: result for result in report.targets}
    taken = 0 if report.unchanged or report.snapshot is None else 1
    whole_on = report.snapshot.targets if report.snapshot is not None else tuple(model.targets)
    found = {}
    for name in model.targets:
        before = targets.get(name, TargetRecord())
        result = results.get(name)
        if result is not None and result.error:
            found[name] = failing(before, result.error, owed=taken, now=now)
        elif result is not None and result.pending:
            found[name] = replace(before, owed=before.owed + 1)
        elif result is not None or name in whole_on:
            version = result.version if result is not None else 0
            found[name] = replace(
                working(before),
                last_good=started,
                version=max(version, before.version),
                # What it is owed lies below what it has now, where only a look at all finds it.
                looked=0.0 if before.owed else before.looked,
            )
        else:
            found[name] = before if before.owed or before.error else _still_good(before, started)
    return found


def _still_good(target: TargetRecord, started: float) -> TargetRecord:
    """Nothing changed, and nothing was owed."""
    return replace(target, last_good=started) if target.last_good else target


def after_copy(
    target: TargetRecord, results: Sequence[TargetResult], *, owed: int, thorough: bool, now: float
) -> TargetRecord:
    """The record of a target that was brought up to date; `owed` is what it was owed at first."""
    version = max([target.version, *(result.version for result in results if not result.error)])
    wrong = [result.error for result in results if result.error]
    if wrong:
        return failing(replace(target, version=version), "; ".join(wrong[:3]), owed=0, now=now)
    # A snapshot that was taken meanwhile is still owed.
    left = max(0, target.owed - owed)
    looked = now if thorough else target.looked
    return replace(working(target), owed=left, version=version, last_good=now, looked=looked)


def failing(target: TargetRecord, error: str, *, owed: int, now: float) -> TargetRecord:
    """The record of a target that failed, with so many snapshots more that it is owed."""
    return replace(
        target,
        owed=target.owed + owed,
        error=error[:MAX_ERROR],
        error_time=now,
        failed_since=target.failed_since or now,
        failures=target.failures + 1,
        tried=now,
    )


def working(target: TargetRecord) -> TargetRecord:
    """The record of a target that works again."""
    return replace(target, error="", error_time=0.0, failed_since=0.0, failures=0)


def at_once(target: TargetRecord) -> TargetRecord:
    """The record of a target that is back: it is not waited for any longer."""
    return replace(target, tried=0.0)


def target_state(model: str, name: str, target: TargetRecord, tickets: Sequence[Ticket]) -> str:
    """`copying`, `failed`, `pending` (a copy is owed), `stored`, or `new` (nothing is there)."""
    key = Job(Kind.COPY, model, target=name).key
    if any(ticket.job.key == key and ticket.state is State.RUNNING for ticket in tickets):
        return "copying"
    if target.error:
        return "failed"
    if target.owed:
        return "pending"
    return "stored" if target.version or target.last_good else "new"
