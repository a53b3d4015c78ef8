"""What a running daemon is made of: the plan in force, its watches, the queue and the records.

`tick` brings the queue what is due; `apply` puts another configuration in force. Signals, sockets
and systemd are the part of `service`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backupd import __version__
from backupd.config.settings import ModelSettings, S3Target, Settings
from backupd.daemon.copies import at_once, next_copy, why_copy
from backupd.daemon.holds import Holds
from backupd.daemon.perform import Performer
from backupd.daemon.queue import Job, JobQueue, Kind
from backupd.daemon.returns import ASK_FAR_SECONDS, ASK_SECONDS, Returns
from backupd.daemon.schedule import Reason, Schedule, next_due, why_due, why_scan
from backupd.daemon.state import StateStore, TargetRecord
from backupd.daemon.status import job_status, model_status, upkeep_status
from backupd.daemon.timers import Timers
from backupd.daemon.verbs import Verbs
from backupd.daemon.watcher import Mode, ModelWatch, WatchState
from backupd.operations.append_only import append_only, has_lock
from backupd.operations.heads import was_cut_short

if TYPE_CHECKING:
    from backupd.daemon.logs import Log
    from backupd.operations.reports import SnapshotInfo

# Ticks that found nothing to do are made durable together: to forget some costs one scan.
SAVE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Upkeep:
    """One upkeep job and when it runs; `name` is a target's, or empty for all."""

    kind: Kind
    name: str
    schedule: Schedule

    @property
    def key(self) -> str:
        """What its record is kept under."""
        return Job(self.kind, self.name).key


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration in force: what runs when, and what is watched."""

    settings: Settings
    schedules: Mapping[str, Schedule]
    upkeep: tuple[Upkeep, ...]
    watches: Mapping[str, ModelWatch]


@dataclass(frozen=True, slots=True)
class Clocks:
    """`wall` is seconds since the epoch, `monotonic` CLOCK_MONOTONIC in seconds."""

    wall: Callable[[], float]
    monotonic: Callable[[], float]


class Engine:
    """Threads: the loop calls `tick` and `apply`; any may call the rest."""

    def __init__(
        self,
        settings: Settings,
        *,
        verbs: Verbs,
        environment: Mapping[str, str],
        clocks: Clocks,
        store: StateStore,
        log: Log,
        on_end: Callable[[], None],
        make_watch: Callable[[ModelSettings, Callable[[WatchState], None]], ModelWatch]
        | None = None,
    ) -> None:
        """`on_end` is called when a job has ended, and when a schedule has a run.

        Raises `ValueError` for a bad schedule.
        """
        self._verbs = verbs
        self._environment = environment
        self._clocks = clocks
        self._store = store
        self._log = log
        self._make_watch = make_watch or (lambda model, told: ModelWatch(model, on_state=told))
        self._saved = clocks.monotonic()
        self._saver: threading.Thread | None = None
        self.started = clocks.wall()
        self._plan = Plan(settings, {}, (), {})
        self._timers = Timers(on_end)
        self._on_end = on_end
        self._returns = Returns(
            self._answers, on_return=self._catch_up_at_once, ask_seconds=self._ask_seconds
        )
        self.holds = Holds(clocks.monotonic)
        self.queue = JobQueue(
            Performer(
                verbs,
                settings=lambda: self._plan.settings,
                watch=lambda name: self._plan.watches.get(name),
                environment=environment,
                clock=clocks.wall,
                store=store,
                holds=self.holds,
                log=log,
            ),
            on_crash=lambda job, error: log.error(f"{job.key} crashed", exc_info=error),
            on_end=on_end,
        )
        self.apply(settings)

    @property
    def settings(self) -> Settings:
        """The configuration in force."""
        return self._plan.settings

    def apply(self, settings: Settings) -> None:
        """Put a configuration in force, whole; raises `ValueError` before anything has changed.

        Running jobs go on with the one they began with; waiting ones take the new one.
        """
        schedules = {
            name: Schedule(model.schedule, model.timezone)
            for name, model in settings.models.items()
        }
        upkeep = tuple(_upkeep(settings))
        old = self._plan.watches
        watches, fresh = {}, []
        for name, model in settings.models.items():
            kept = old.get(name)
            if kept is not None and _same_folder(kept.model, model):
                watches[name] = kept
            else:
                watches[name] = self._make_watch(model, self._teller(name))
                fresh.append(watches[name])
        keys = [Job(Kind.SNAPSHOT, name).key for name in settings.models]
        keys += [entry.key for entry in upkeep]
        self._store.keep_only(frozenset(keys))
        now = self._clocks.wall()
        for key in keys:
            if not self._store.get(key).first_seen:
                self._store.change(key, lambda record: replace(record, first_seen=now))
        self._plan = Plan(settings, schedules, upkeep, watches)
        self.queue.serve_targets(settings.targets)
        timers = {Job(Kind.SNAPSHOT, name).key: entry for name, entry in schedules.items()}
        self._timers.apply(timers | {entry.key: entry.schedule for entry in upkeep})
        for name, watch in old.items():
            if watches.get(name) is not watch:
                watch.stop()
        for watch in fresh:
            watch.start()
        for name in settings.models:
            # The folder may be absent until then, so it does not wait for the schedule.
            if was_cut_short(settings, name):
                self.queue.submit(Job(Kind.SNAPSHOT, name, reason="a switch was cut short"))

    def tick(self) -> float:
        """Queue what is due, and give the seconds until there may be more."""
        now = self._clocks.wall()
        plan = self._plan
        wake = now + SAVE_SECONDS
        for name, schedule in plan.schedules.items():
            key = Job(Kind.SNAPSHOT, name).key
            if not self.queue.is_busy(key):
                self._tick_model(name, key, schedule, plan.watches[name], now)
                wake = min(wake, next_due(schedule, self._store.get(key), now))
        for entry in plan.upkeep:
            if not self.queue.is_busy(entry.key):
                record = self._store.get(entry.key)
                why = why_due(entry.schedule, record, now, first=False)
                if why is not None:
                    self.queue.submit(Job(entry.kind, entry.name, reason=why))
                wake = min(wake, next_due(entry.schedule, record, now, first=False))
        wake = min(wake, self._tick_copies(plan.settings, now))
        self._save_now_and_then()
        # What was queued just now is due until it runs; its end wakes the loop.
        return max(wake - now, 1.0)

    def _tick_model(
        self, name: str, key: str, schedule: Schedule, watch: ModelWatch, now: float
    ) -> None:
        record = self._store.get(key)
        why = why_due(schedule, record, now)
        if why is None:
            return
        scan = "" if why is Reason.FIRST else why_scan(watch.seen(), record, now)
        if scan or why is Reason.FIRST:
            reason = f"{why}; {scan}" if scan else str(why)
            self.queue.submit(Job(Kind.SNAPSHOT, name, reason=reason))
            return
        self._store.change(key, lambda before: replace(before, last_run=now, last_good=now))
        self._log.debug("nothing changed", model=name, reason=str(why))

    def _tick_copies(self, settings: Settings, now: float) -> float:
        """Queue the copies that are due; when there may be more."""
        wake = now + SAVE_SECONDS
        failing: set[str] = set()
        for name, model in settings.models.items():
            record = self._store.get(Job(Kind.SNAPSHOT, name).key)
            if len(model.targets) == 1 or not record.snapshot:
                continue
            for target in model.targets:
                found = record.targets.get(target, TargetRecord())
                if found.error:
                    failing.add(target)
                job = Job(Kind.COPY, name, target=target)
                if self.queue.is_busy(job.key):
                    continue
                due = next_copy(found, since=self.started, now=now)
                if due <= now:
                    why = why_copy(found)
                    self.queue.submit(replace(job, reason=why))
                else:
                    wake = min(wake, due)
        self._returns.watch(failing)
        return wake

    def _catch_up_at_once(self, target: str) -> None:
        """A target is back: what it is owed goes there now."""
        self._log.info("the target is back", target=target)
        for name, model in self.settings.models.items():
            if target in model.targets:
                self._store.change_target(Job(Kind.SNAPSHOT, name).key, target, at_once)
        self._on_end()

    def _answers(self, target: str) -> bool:
        if target not in self.settings.targets:
            return False
        with self._verbs.open(
            self.settings, environment=self._environment, clock=self._clocks.wall
        ) as installation:
            return self._verbs.answers(installation, target)

    def _ask_seconds(self, target: str) -> float:
        far = isinstance(self.settings.targets.get(target), S3Target)
        return ASK_FAR_SECONDS if far else ASK_SECONDS

    def list_snapshots(
        self,
        *,
        model: str,
        host: str,
        labels: Mapping[str, str],
        targets: Iterable[str] | None,
    ) -> list[SnapshotInfo]:
        """As the operation of that name, for the configuration in force."""
        with self._verbs.open(
            self.settings, environment=self._environment, clock=self._clocks.wall
        ) as installation:
            return self._verbs.list_snapshots(
                installation, model=model, host=host, labels=labels, targets=targets
            )

    def status(self) -> dict[str, object]:
        """The parts of the status document that the engine knows; see `status`."""
        now = self._clocks.wall()
        monotonic = self._clocks.monotonic()
        plan = self._plan
        tickets = self.queue.tickets()
        settings = plan.settings
        return {
            "pid": os.getpid(),
            "version": __version__,
            "host": settings.host,
            "configuration": str(settings.source),
            "state_dir": str(settings.state_dir),
            "started": self.started,
            "now": now,
            "warnings": [
                *settings.warnings,
                *([self._store.problem] if self._store.problem else []),
            ],
            "models": [
                model_status(
                    model,
                    self._store.get(Job(Kind.SNAPSHOT, name).key),
                    plan.schedules[name],
                    plan.watches[name].state,
                    tickets,
                    changed=plan.watches[name].seen().changed,
                    now=now,
                )
                for name, model in settings.models.items()
            ],
            "upkeep": [
                upkeep_status(
                    entry.kind,
                    entry.name,
                    self._store.get(entry.key),
                    entry.schedule,
                    tickets,
                    now=now,
                )
                for entry in plan.upkeep
            ],
            "jobs": [job_status(ticket, monotonic) for ticket in tickets],
        }

    def close(self) -> None:
        """End the timers and watches, and write the records. Raises `OSError`."""
        self._timers.close()
        self._returns.close()
        for watch in self._plan.watches.values():
            watch.stop()
        self._store.save()

    def _save_now_and_then(self) -> None:
        """In a thread: a disk that is slow to sync must not hold up the loop."""
        now = self._clocks.monotonic()
        saving = self._saver is not None and self._saver.is_alive()
        if now - self._saved >= SAVE_SECONDS and not saving:
            self._saved = now
            self._saver = threading.Thread(target=self._save, name="state", daemon=True)
            self._saver.start()

    def _save(self) -> None:
        try:
            self._store.save()
        except OSError as error:
            self._log.error(f"{self._store.path} cannot be written: {error.strerror}")

    def _teller(self, name: str) -> Callable[[WatchState], None]:
        log = self._log.bind(model=name)

        def tell(state: WatchState) -> None:
            if state.mode is Mode.WATCHING:
                log.info("watching for changes")
            elif state.mode is Mode.POLLING:
                log.warning(f"polling, a scan at each run: {state.why}")
            else:
                log.warning(f"the model's folder is missing: {state.why}")

        return tell


def _upkeep(settings: Settings) -> Iterable[Upkeep]:
    upkeep = settings.upkeep
    if upkeep.forget:
        yield Upkeep(Kind.FORGET, "", Schedule(upkeep.forget))
    every = list(settings.targets)
    others_do = append_only(settings, every)
    for kind, cron, targets in (
        (Kind.PRUNE, upkeep.prune, [name for name in every if name not in others_do]),
        (Kind.CHECK, upkeep.check, every),
        (Kind.EXTEND, upkeep.extend, [name for name in every if has_lock(settings, name)]),
    ):
        for target in targets if cron else ():
            yield Upkeep(kind, target, Schedule(cron))
    if upkeep.drill:
        yield Upkeep(Kind.DRILL, "", Schedule(upkeep.drill))


def _same_folder(old: ModelSettings, new: ModelSettings) -> bool:
    """Whether a watch of one serves the other."""
    return (old.path, old.exclude, old.one_filesystem) == (
        new.path,
        new.exclude,
        new.one_filesystem,
    )
