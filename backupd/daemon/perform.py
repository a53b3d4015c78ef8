"""From a job to its outcome: calls the verb, keeps the record of how it went, and writes the log.

Whatever a target, a disk or a bug does ends here as an outcome; nothing is raised into the queue.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from backupd.config.settings import LimitsSettings, Settings
from backupd.daemon.aftermath import after_run, missing_of
from backupd.daemon.copies import MAX_ERROR, failing, newest_version
from backupd.daemon.copy_job import bring_up_to_date, not_configured
from backupd.daemon.holds import Holds
from backupd.daemon.pressure import PacedProgress, Pacer
from backupd.daemon.queue import Job, Kind, Later, Outcome, State
from backupd.daemon.state import StateStore, failed, succeeded
from backupd.daemon.verbs import Verbs
from backupd.daemon.waiting import rules_of
from backupd.daemon.watcher import ModelWatch
from backupd.errors import (
    EXIT_DAMAGED,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_PARTIAL,
    BackupdError,
    StoppedError,
)
from backupd.operations.progress import Progress
from backupd.operations.reports import (
    CheckReport,
    DrillReport,
    Finding,
    RepairReport,
)
from backupd.operations.settle_plan import NotSettledError, Settling
from backupd.targets.bandwidth import Limits

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from backupd.daemon.logs import Log
    from backupd.operations.installation import Installation

_MOST_TOLD = 100
_HELD_PAUSE_SECONDS = 1.0


class Performer:
    """Does jobs. Each opens the configuration in force when it begins, and keeps it to its end."""

    def __init__(
        self,
        verbs: Verbs,
        *,
        settings: Callable[[], Settings],
        watch: Callable[[str], ModelWatch | None],
        environment: Mapping[str, str],
        clock: Callable[[], float],
        store: StateStore,
        holds: Holds,
        log: Log,
    ) -> None:
        self._pacer: Pacer | None = None
        self._paced: LimitsSettings | None = None
        self._verbs = verbs
        self._settings = settings
        self._watch = watch
        self._environment = environment
        self._clock = clock
        self._store = store
        self._holds = holds
        self._log = log
        self._since = clock()
        self._upload = Limits()
        # When a job that was put back was first begun, by its stop event, which lives as long.
        self._waiting: dict[int, float] = {}

    def __call__(self, job: Job, progress: Progress, stop: threading.Event) -> Outcome | Later:
        """See `queue.Perform`."""
        started = self._clock()
        progress = PacedProgress(progress, self._pacer_of(self._settings().limits), stop)
        what = {"target": job.name or "all"}
        if job.kind in (Kind.SNAPSHOT, Kind.COPY):
            what = {"model": job.name} | ({"target": job.target} if job.target else {})
        log = self._log.bind(job=str(job.kind), **what)
        watch = self._watch(job.name) if job.kind is Kind.SNAPSHOT else None
        waiting_since = self._waiting.pop(id(stop), None)
        if waiting_since is None:
            log.info(f"{job.kind} begins", reason=job.reason)
        try:
            outcome = self._do(job, progress, stop, started, waiting_since, log)
        except NotSettledError as error:
            self._waiting[id(stop)] = started if waiting_since is None else waiting_since
            if waiting_since is None:
                log.info(f"waiting: {error.message}")
            return Later(error.seconds, error.message)
        except StoppedError as error:
            outcome = Outcome(State.STOPPED, error.message, error.hint, EXIT_INTERRUPTED)
            seconds = round(self._clock() - started, 3)
            log.info(f"{job.kind} stopped; it resumes", duration_seconds=seconds)
        except BackupdError as error:
            outcome = Outcome(State.FAILED, str(error), error.hint, error.exit_code)
            self._failed(job, started, outcome, log)
        except Exception as error:
            outcome = Outcome(State.FAILED, f"{type(error).__name__}: {error}", "", EXIT_FAILED)
            log.exception(f"{job.kind} met a bug in backupd")
            self._failed(job, started, outcome, log)
        if watch is not None and outcome.state is not State.DONE:
            watch.mark()
        self._save(log)
        return outcome

    def _pacer_of(self, limits: LimitsSettings) -> Pacer:
        """The one pacer of all jobs, made anew with the limits that it is for."""
        if self._pacer is None or self._paced != limits:
            self._pacer, self._paced = Pacer(limits, tell=self._log.info), limits
        return self._pacer

    def _do(
        self,
        job: Job,
        progress: Progress,
        stop: threading.Event,
        started: float,
        waiting_since: float | None,
        log: Log,
    ) -> Outcome:
        settings = self._settings()
        if stop.is_set():
            raise StoppedError("the daemon is stopping")
        if job.kind is Kind.SNAPSHOT:
            return self._snapshot(settings, job, progress, stop, started, waiting_since, log)
        if job.kind is Kind.COPY:
            with self._open(settings) as installation:
                return bring_up_to_date(
                    installation,
                    self._verbs.catch_up,
                    job,
                    self._store,
                    since=self._since,
                    clock=self._clock,
                    progress=progress,
                    stop=stop,
                    log=log,
                )
        note = ""
        with self._open(settings) as installation:
            match job.kind:
                case Kind.FORGET:
                    report = self._verbs.forget(installation, dry_run=False, now=started)
                    told: dict[str, object] = {
                        "kept": len(report.kept),
                        "forgotten": len(report.forgotten),
                    }
                case Kind.PRUNE:
                    pruned = self._verbs.prune(
                        installation, job.name, dry_run=False, progress=progress, stop=stop
                    )
                    told = {
                        "packs": pruned.packs_total,
                        "deleted_packs": pruned.packs_deleted,
                        "deleted_bytes": pruned.deleted_bytes,
                        "marked_bytes": pruned.marked_bytes,
                    }
                case Kind.EXTEND:
                    extended = self._verbs.extend(
                        installation, job.name, progress=progress, stop=stop
                    )
                    if extended.problems:
                        from backupd.operations.extend import unheld

                        raise unheld(extended)
                    told = {"objects": extended.needed, "extended": extended.extended}
                case Kind.DRILL:
                    drilled = self._verbs.drill(installation, "", progress=progress, stop=stop)
                    if not drilled.clean:
                        return self._drill_failed(job, drilled, started, log)
                    note = (
                        f"{drilled.snapshot} from {drilled.target}: "
                        f"{drilled.files} files came back as they were stored"
                    )
                    told = {"snapshot": drilled.snapshot, "bytes": drilled.size_bytes}
                case _ if settings.upkeep.heal:
                    found, healed = self._verbs.heal(
                        installation,
                        job.name,
                        read_data_percent=settings.upkeep.read_data_percent or None,
                        progress=progress,
                        stop=stop,
                    )
                    if healed is not None:
                        note = self._healed(healed, found, log)
                        if healed.lost:
                            return self._damaged(job, healed.lost, started, log)
                    told = {"snapshots": found.snapshots if found else 0}
                case _:
                    checked = self._verbs.check(
                        installation,
                        job.name,
                        read_data_percent=settings.upkeep.read_data_percent or None,
                        progress=progress,
                        stop=stop,
                    )
                    if not checked.clean:
                        return self._damaged(job, checked.findings, started, log)
                    told = {"snapshots": checked.snapshots, "read_bytes": checked.read_bytes}
        self._store.change(job.key, lambda record: succeeded(record, started=started, note=note))
        seconds = round(self._clock() - started, 3)
        log.info(f"{job.kind} done", duration_seconds=seconds, **told)
        return Outcome(State.DONE)

    def _open(self, settings: Settings) -> AbstractContextManager[Installation]:
        """The configuration for one job. What all send together stays under the limits."""
        return self._verbs.open(
            settings,
            environment=self._environment,
            clock=self._clock,
            upload=self._upload,
        )

    def _snapshot(
        self,
        settings: Settings,
        job: Job,
        progress: Progress,
        stop: threading.Event,
        started: float,
        waiting_since: float | None,
        log: Log,
    ) -> Outcome:
        model = settings.models.get(job.name)
        if model is None:
            return not_configured(job)
        if job.scheme:
            model = replace(model, scheme=job.scheme)
        since = started if waiting_since is None else waiting_since
        holder = "" if job.now else self._holds.holder(job.name)
        if holder and started - since < model.settle_max_seconds:
            raise NotSettledError(_HELD_PAUSE_SECONDS, holder)
        watch = self._watch(job.name)
        if watch is not None:
            watch.take()
        with self._open(settings) as installation:
            report = self._verbs.take_snapshot(
                installation,
                model,
                labels=dict(job.labels),
                metrics=dict(job.metrics),
                copy=False,
                known_version=newest_version(self._store.get(job.key)),
                step=job.step,
                epoch=job.epoch,
                settling=Settling(rules_of(job, model), since=since, wait_here=False),
                progress=progress,
                stop=stop,
            )
        if report.retry and watch is not None:
            watch.mark()
        missing = missing_of(report)
        self._store.change(
            job.key,
            lambda record: after_run(record, model, report, started=started, now=self._clock()),
        )
        told: dict[str, object] = {"duration_seconds": round(self._clock() - started, 3)}
        if report.snapshot is not None and not report.unchanged:
            info = report.snapshot
            told |= {
                "snapshot": info.name,
                "files": info.file_count,
                "bytes": info.size_bytes,
                "added_bytes": info.added_bytes,
                "stored_bytes": info.stored_bytes,
            }
            dangerous = [found.path for found in info.findings if found.level == "dangerous"]
            if dangerous:
                told_paths = dangerous[:_MOST_TOLD]
                log.warning("files may do harm when they are loaded", paths=told_paths, **told)
        for note in report.notes:
            log.warning(note, **told)
        if missing:
            for result in report.targets:
                if result.error:
                    log.error(result.error, target=result.target, **told)
            log.warning("snapshot done in part", missing=missing, **told)
            away = any(result.error for result in report.targets)
            hint = "the targets that are missing are caught up by themselves" if away else ""
            return Outcome(State.PARTIAL, missing, hint, EXIT_PARTIAL, report)
        log.info("nothing changed" if report.unchanged else "snapshot done", **told)
        return Outcome(State.DONE, report=report)

    def _healed(self, healed: RepairReport, found: CheckReport | None, log: Log) -> str:
        """Tell what a repair found and did; what the status says of it."""
        for finding in found.findings if found is not None else ():
            if not finding.harmless:
                log.warning(
                    finding.problem, object=finding.object_name, snapshots=list(finding.snapshots)
                )
        for mended in healed.mended[:_MOST_TOLD]:
            log.warning(
                "mended",
                object=mended.object_name,
                how=mended.verb,
                source=mended.source,
                why=mended.reason,
            )
        note = f"damage was found and {len(healed.mended)} objects were mended"
        log.warning(note, left=len(healed.lost))
        return note

    def _drill_failed(self, job: Job, report: DrillReport, started: float, log: Log) -> Outcome:
        for path, why in list(report.failed.items())[:_MOST_TOLD]:
            log.error(why, path=path, snapshot=report.snapshot, target=report.target)
        error = f"{len(report.failed)} files of {report.snapshot} on {report.target} did not come"
        error += " back as they were stored"
        hint = f"`backupd check --target {report.target} --read-data`, then `backupd repair`"
        self._store.change(
            job.key,
            lambda record: failed(
                record, started=started, now=self._clock(), error=error, retry=False
            ),
        )
        log.error(error, hint=hint)
        return Outcome(State.FAILED, error, hint, EXIT_DAMAGED)

    def _damaged(self, job: Job, findings: Sequence[Finding], started: float, log: Log) -> Outcome:
        wrong = [finding for finding in findings if not finding.harmless]
        for finding in wrong[:_MOST_TOLD]:
            log.error(
                finding.problem, object=finding.object_name, snapshots=list(finding.snapshots)
            )
        error = f"check found {len(wrong)} damaged objects on {job.name}"
        hint = f"`backupd check --target {job.name}` shows them"
        # Reading it again would find the same, so this waits for its schedule.
        self._store.change(
            job.key,
            lambda record: failed(
                record, started=started, now=self._clock(), error=error, retry=False
            ),
        )
        log.error(error, hint=hint)
        return Outcome(State.FAILED, error, hint, EXIT_DAMAGED)

    def _failed(self, job: Job, started: float, outcome: Outcome, log: Log) -> None:
        error = outcome.error[:MAX_ERROR]
        now = self._clock()
        if job.kind is Kind.COPY:
            failures = self._store.change_target(
                Job(Kind.SNAPSHOT, job.name).key,
                job.target,
                lambda target: failing(target, error, owed=0, now=now),
            ).failures
        else:
            failures = self._store.change(
                job.key,
                lambda record: failed(record, started=started, now=now, error=error, retry=True),
            ).failures
        log.error(
            f"{job.kind} failed: {outcome.error}",
            hint=outcome.hint,
            failures=failures,
            duration_seconds=round(self._clock() - started, 3),
        )

    def _save(self, log: Log) -> None:
        try:
            self._store.save()
        except OSError as error:
            log.error(f"{self._store.path} cannot be written: {error.strerror}")
