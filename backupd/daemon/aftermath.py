"""What a snapshot's report comes to: its words, and the record that is kept of it."""

from __future__ import annotations

from dataclasses import replace

from backupd.config.settings import ModelSettings
from backupd.daemon.copies import MAX_ERROR, after_snapshot
from backupd.daemon.state import JobRecord, failed, succeeded
from backupd.operations.reports import SnapshotReport


def missing_of(report: SnapshotReport) -> str:
    """What keeps a snapshot from being whole everywhere, in words."""
    parts = [f"{result.target}: {result.error}" for result in report.targets if result.error]
    left_out = left_out_of(report)
    return "; ".join([*parts, left_out] if left_out else parts)


def left_out_of(report: SnapshotReport) -> str:
    """The files that a snapshot lacks or has as they were, in words; empty where none."""
    left_out = report.incomplete
    if not left_out:
        return ""
    more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
    return f"not whole: {', '.join(left_out[:3])}{more}"


def after_run(
    record: JobRecord,
    model: ModelSettings,
    report: SnapshotReport,
    *,
    started: float,
    now: float,
) -> JobRecord:
    """The record after a snapshot that took place. Targets that were away are copied to later."""
    targets = after_snapshot(record.targets, model, report, started=started, now=now)
    left_out = left_out_of(report)
    good = record.last_good
    if left_out:
        record = failed(record, started=started, now=now, error=left_out[:MAX_ERROR], retry=False)
    else:
        record = succeeded(record, started=started)
    if any(target.error for target in targets.values()):
        record = replace(record, last_good=good)
    if report.snapshot is not None:
        record = replace(record, snapshot=report.snapshot.name, snapshot_time=report.snapshot.time)
    return replace(record, last_scan=started, targets=targets)
