"""A daemon without operations: recorded verbs, a clock that is set, and settings to run with."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backupd.config.settings import (
    KeySettings,
    LimitsSettings,
    LocalTarget,
    ModelSettings,
    Settings,
)
from backupd.daemon.logs import make_log
from backupd.daemon.verbs import Verbs
from backupd.operations.extend import ExtendReport
from backupd.operations.reports import (
    CheckReport,
    DrillReport,
    ForgetReport,
    PruneReport,
    RepairReport,
    SnapshotInfo,
    SnapshotReport,
    TargetResult,
)
from backupd.operations.settle_plan import Settling

# A limit against hanging only: what is waited for takes milliseconds on a quiet machine.
PATIENCE_SECONDS = 100.0


def eventually(seen: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> Any:
    """The first true answer of `seen`; fails the test where there is none in time."""
    deadline = time.monotonic() + seconds
    while not (answer := seen()):
        assert time.monotonic() < deadline, f"{seen} stayed {answer!r} for {seconds} s"
        time.sleep(0.01)
    return answer


class Clock:
    """Seconds since the epoch, as a test sets them."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class LogLines:
    """What was logged, line by line, as the journal would get it."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.log = make_log(self.stream, terminal=False)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line[3:]) for line in self.stream.getvalue().splitlines()]

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines()]

    def has(self, part: str) -> bool:
        return any(part in event for event in self.events())


def info(model: str, version: int, when: float = 1_000.0, **changes: Any) -> SnapshotInfo:
    values: dict[str, Any] = {
        "id": f"{version:064x}",
        "host": "box",
        "model": model,
        "version": version,
        "time": when,
        "root": f"/srv/{model}",
        "parent": version - 1,
        "labels": {},
        "metrics": {},
        "file_count": 3,
        "size_bytes": 3000,
        "added_bytes": 1000,
        "stored_bytes": 900,
        "duration_seconds": 0.1,
        "incomplete": (),
        "skipped": (),
        "targets": ("disk",),
    }
    return SnapshotInfo(**{**values, **changes})


def good(model: str, version: int = 1, **changes: Any) -> SnapshotReport:
    taken = info(model, version, **changes)
    results = (TargetResult("disk", version, 900),)
    return SnapshotReport(model, False, taken, results, incomplete=taken.incomplete)


def unchanged(model: str) -> SnapshotReport:
    return SnapshotReport(model, True, None, ())


@dataclass
class Recorder:
    """Verbs that note their calls. `snapshot` may be replaced: it gets the model, the labels, the
    progress and the stop event. So may `copy`: it gets the model, the target and the stop event.
    Targets in `silent` cannot be reached.
    """

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    snapshot: Callable[..., SnapshotReport] | None = None
    copy: Callable[..., list[TargetResult]] | None = None
    silent: set[str] = field(default_factory=set)
    settings: Settings | None = None
    check_report: CheckReport | None = None
    extend_report: ExtendReport | None = None
    repair_report: RepairReport | None = None
    drill_report: DrillReport | None = None
    failure: Exception | None = None
    secret: Callable[[], str] = lambda: "secret"

    def verbs(self) -> Verbs:
        return Verbs(
            open=self._open,
            take_snapshot=self._take_snapshot,
            catch_up=self._catch_up,
            answers=self._answers,
            forget=self._forget,
            prune=self._prune,
            check=self._check,
            extend=self._extend,
            heal=self._heal,
            drill=self._drill,
            list_snapshots=self._list,
        )

    def count(self, *begin: Any) -> int:
        return sum(call[: len(begin)] == begin for call in list(self.calls))

    @contextmanager
    def _open(self, settings: Settings, **_: Any) -> Iterator[Any]:
        self.settings = settings
        yield self

    def _take_snapshot(
        self,
        installation: Any,
        model: ModelSettings,
        *,
        labels: Mapping[str, str],
        metrics: Mapping[str, float],
        copy: bool,
        known_version: int,
        step: int | None,
        epoch: float | None,
        settling: Settling,
        progress: Any,
        stop: threading.Event,
    ) -> SnapshotReport:
        assert not copy, "the daemon copies by jobs of their own"
        self.calls.append(("snapshot", model.name, dict(labels), dict(metrics), model.schedule))
        if self.failure is not None:
            raise self.failure
        if self.snapshot is not None:
            return self.snapshot(model, labels, progress, stop)
        return good(model.name, self.count("snapshot", model.name))

    def _catch_up(
        self, installation: Any, model: ModelSettings, destination: str, **asked: Any
    ) -> list[TargetResult]:
        self.calls.append(("copy", model.name, destination, asked["newest"]))
        if self.copy is not None:
            return self.copy(model.name, destination, asked["stop"])
        return [TargetResult(destination, asked["newest"], 900, model=model.name)]

    def _answers(self, installation: Any, name: str) -> bool:
        self.calls.append(("answers", name))
        return name not in self.silent

    def _forget(self, installation: Any, *, dry_run: bool, now: float) -> ForgetReport:
        self.calls.append(("forget", now))
        return ForgetReport((), (), dry_run)

    def _prune(self, installation: Any, target: str, **_: Any) -> PruneReport:
        self.calls.append(("prune", target))
        return PruneReport(target, 1, 0, 0, 0, 0, 0, 0, 0, False)

    def _check(
        self, installation: Any, target: str, *, read_data_percent: float | None, **_: Any
    ) -> CheckReport:
        self.calls.append(("check", target, read_data_percent))
        return self.check_report or CheckReport(target, 1, 1, 1, 10, ())

    def _extend(self, installation: Any, target: str, **_: Any) -> ExtendReport:
        self.calls.append(("extend", target))
        return self.extend_report or ExtendReport(target, 3, 1, 100, 2_000.0, False)

    def _heal(
        self, installation: Any, target: str, **_: Any
    ) -> tuple[CheckReport | None, RepairReport | None]:
        self.calls.append(("heal", target))
        report = self.check_report or CheckReport(target, 1, 1, 1, 10, ())
        return report, None if report.clean else self.repair_report

    def _drill(self, installation: Any, spec: str, **_: Any) -> DrillReport:
        self.calls.append(("drill", spec))
        return self.drill_report or DrillReport("llama@v1", "disk", 3, 10, 0, 0, {}, 0.1)

    def _list(self, installation: Any, **asked: Any) -> list[SnapshotInfo]:
        self.calls.append(("list", asked))
        return [info("llama", 1), info("llama", 2, labels={"release": "1.0"})]


def model(path: Path, name: str = "llama", **changes: Any) -> ModelSettings:
    values: dict[str, Any] = {"targets": {"disk": ()}, "schedule": "*/15 * * * *"}
    return ModelSettings(name=name, path=path, **{**values, **changes})


def settings(folder: Path, *models: ModelSettings, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "source": folder / "backupd.yaml",
        "state_dir": folder / "state",
        "host": "box",
        "key": KeySettings(encryption=False),
        "targets": {"disk": LocalTarget("disk", folder / "repository")},
        "policies": {},
        "models": {one.name: one for one in models},
        # A daemon in a thread sets the priority of the tests' own process, all others of which
        # would starve it, and what it starts, for the rest of the run.
        "limits": LimitsSettings(nice=os.getpriority(os.PRIO_PROCESS, 0), io="none"),
    }
    return Settings(**{**values, **changes})
