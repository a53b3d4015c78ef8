"""What the daemon remembers over a restart: when each job last ran, how it ended, what is stored.

One small JSON file, replaced whole. It is a memory and never the truth: without it every model
is looked at once more, and nothing else is lost.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from backupd.operations.state_file import replace_file

STATE_NAME = "state.json"
_FORMAT = 1
_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class TargetRecord:
    """How a model fares on one target. Times are seconds since the epoch, 0 for never.

    `version` is the newest that is whole there, `owed` how many snapshots were taken since that
    it lacks. `failures` counts the tries since `failed_since`, the last of them at `tried`;
    `looked` is when all that it lists was last compared with the other targets.
    """

    last_good: float = 0.0
    version: int = 0
    error: str = ""
    error_time: float = 0.0
    owed: int = 0
    failed_since: float = 0.0
    failures: int = 0
    tried: float = 0.0
    looked: float = 0.0


@dataclass(frozen=True, slots=True)
class JobRecord:
    """How one kind of job fares for one name. Times are seconds since the epoch, 0 for never.

    `last_run` is when it was last begun or found needless; `last_good` when it was last known
    that nothing is missing; `last_scan` when the folder was last read through. `failures` counts
    the runs since the last good one that are worth trying again. `note` is what the last good run
    had to say.
    """

    first_seen: float = 0.0
    last_run: float = 0.0
    last_good: float = 0.0
    last_scan: float = 0.0
    snapshot: str = ""
    snapshot_time: float = 0.0
    error: str = ""
    error_time: float = 0.0
    note: str = ""
    failures: int = 0
    targets: Mapping[str, TargetRecord] = field(default_factory=dict)


class StateStore:
    """The records of all jobs by key, thread-safe; `save` writes them durably."""

    def __init__(self, path: Path) -> None:
        """Read `path`. What is wrong with it is told in `problem`, and it begins empty then."""
        self.path = path
        self.problem = ""
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._records: dict[str, JobRecord] = {}
        self._changed = False
        try:
            with path.open("rb") as file:
                self._records = _decode(file.read(_MAX_BYTES + 1))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self.problem = f"{path} cannot be used ({error}); every model is looked at once more"

    def get(self, key: str) -> JobRecord:
        """The record of a job; an empty one where there is none yet."""
        with self._lock:
            return self._records.get(key, JobRecord())

    def change(self, key: str, change: Callable[[JobRecord], JobRecord]) -> JobRecord:
        """Replace a record by what `change` makes of it; `save` makes it durable."""
        with self._lock:
            record = self._records[key] = change(self._records.get(key, JobRecord()))
            self._changed = True
            return record

    def change_target(
        self, key: str, name: str, change: Callable[[TargetRecord], TargetRecord]
    ) -> TargetRecord:
        """Replace what is kept of one target; the record it has now."""

        def changed(record: JobRecord) -> JobRecord:
            target = change(record.targets.get(name, TargetRecord()))
            return replace(record, targets={**record.targets, name: target})

        return self.change(key, changed).targets[name]

    def keep_only(self, keys: frozenset[str]) -> None:
        """Drop the records of jobs that are no longer configured."""
        with self._lock:
            gone = self._records.keys() - keys
            for key in gone:
                del self._records[key]
            self._changed |= bool(gone)

    def save(self) -> None:
        """Write what changed since the last time. Raises `OSError`."""
        with self._writing:
            with self._lock:
                if not self._changed:
                    return
                data = _encode(self._records)
                self._changed = False
            try:
                replace_file(self.path, data)
            except OSError:
                with self._lock:
                    self._changed = True
                raise


def succeeded(record: JobRecord, *, started: float, note: str = "") -> JobRecord:
    """The record after a run, begun at `started`, that left nothing to do."""
    return replace(record, last_run=started, last_good=started, error="", note=note, failures=0)


def failed(record: JobRecord, *, started: float, now: float, error: str, retry: bool) -> JobRecord:
    """The record after a run, begun at `started`, that ended at `now` with `error`."""
    failures = record.failures + 1 if retry else 0
    return replace(record, last_run=started, error=error, error_time=now, failures=failures)


def _encode(records: Mapping[str, JobRecord]) -> bytes:
    document = {"format": _FORMAT, "jobs": {key: asdict(r) for key, r in records.items()}}
    return json.dumps(document, indent=1, sort_keys=True).encode()


def _decode(data: bytes) -> dict[str, JobRecord]:
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
    document = json.loads(data)
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ValueError(f"it is not of format {_FORMAT}")
    jobs = document.get("jobs")
    if not isinstance(jobs, dict):
        raise ValueError("it has no jobs")
    return {key: _record(value) for key, value in jobs.items()}


def _record(value: object) -> JobRecord:
    if not isinstance(value, dict):
        raise ValueError("a job in it is no object")
    targets = value.get("targets", {})
    if not isinstance(targets, dict) or not all(isinstance(t, dict) for t in targets.values()):
        raise ValueError("a job's targets in it are no objects")
    found = {name: TargetRecord(**_known(TargetRecord, t)) for name, t in targets.items()}
    return JobRecord(**_known(JobRecord, value), targets=found)


def _known(kind: type[JobRecord] | type[TargetRecord], value: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record that are of their type; others keep their defaults."""
    kinds = {"float": (int, float), "int": (int,), "str": (str,)}
    return {
        entry.name: value[entry.name]
        for entry in fields(kind)
        if type(value.get(entry.name)) in kinds.get(str(entry.type), ())
    }
