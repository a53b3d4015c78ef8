"""One copy job: a model's target is brought up to date, and its record says how that went."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from backupd.daemon.copies import after_copy, is_thorough, newest_version
from backupd.daemon.queue import Job, Kind, Outcome, State
from backupd.daemon.state import JobRecord, StateStore, TargetRecord
from backupd.errors import EXIT_NOT_FOUND, EXIT_PARTIAL, SourcesAwayError
from backupd.operations.progress import Progress
from backupd.operations.reports import TargetResult

if TYPE_CHECKING:
    from backupd.daemon.logs import Log
    from backupd.daemon.verbs import CatchUp
    from backupd.operations.installation import Installation

_MOST_TOLD = 20


def bring_up_to_date(
    installation: Installation,
    catch_up: CatchUp,
    job: Job,
    store: StateStore,
    *,
    since: float,
    clock: Callable[[], float],
    progress: Progress,
    stop: threading.Event,
    log: Log,
) -> Outcome:
    """Give the job's target what it is owed. `since` is when the daemon began.

    Raises `BackupdError` where the target fails.
    """
    model = installation.settings.models.get(job.name)
    if model is None or job.target not in model.targets:
        return not_configured(job)
    key = Job(Kind.SNAPSHOT, job.name).key
    record = store.get(key)
    before = record.targets.get(job.target, TargetRecord())
    started = clock()
    thorough = is_thorough(before, since=since, now=started)
    results: list[TargetResult] = []
    try:
        results = catch_up(
            installation,
            model,
            job.target,
            newest=0 if thorough else newest_version(record),
            progress=progress,
            stop=stop,
        )
    except SourcesAwayError as error:
        if before.owed or before.error:
            raise
        # Nothing is known to be missing here; the next look asks again.
        log.info(error.message)
    now = clock()
    store.change_target(
        key,
        job.target,
        lambda target: after_copy(target, results, owed=before.owed, thorough=thorough, now=now),
    )
    store.change(key, _whole_again)
    for result in results:
        if result.was:
            log.warning(f"v{result.was} is now v{result.version}", on=result.target)
    if wrong := [result.error for result in results if result.error]:
        for why in wrong[:_MOST_TOLD]:
            log.error(why)
        return Outcome(State.PARTIAL, "; ".join(wrong), "", EXIT_PARTIAL)
    log.info(
        "copy done",
        duration_seconds=round(now - started, 3),
        copied=[result.version for result in results],
        stored_bytes=sum(result.stored_bytes for result in results),
    )
    return Outcome(State.DONE)


def not_configured(job: Job) -> Outcome:
    """The end of a job whose model, or target, is not in the configuration any more."""
    what = f"the model {job.name}" + (f" on {job.target}" if job.target else "")
    return Outcome(State.FAILED, f"{what} is not configured any more", "", EXIT_NOT_FOUND)


def _whole_again(record: JobRecord) -> JobRecord:
    """The record after a copy: where nothing is missing any more, nothing was since the run."""
    wrong = any(target.error or target.owed for target in record.targets.values())
    return record if wrong or record.error else replace(record, last_good=record.last_run)
