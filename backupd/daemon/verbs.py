"""The verbs that the daemon calls, as values: tests give it others, that it may be tried alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from backupd.operations.progress import Progress
from backupd.operations.reports import (
    CheckReport,
    DrillReport,
    ForgetReport,
    PruneReport,
    RepairReport,
    SnapshotReport,
    TargetResult,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from backupd.config.settings import ModelSettings, Settings
    from backupd.operations.extend import ExtendReport
    from backupd.operations.installation import Installation
    from backupd.operations.reports import SnapshotInfo
    from backupd.operations.settle_plan import Settling
    from backupd.targets.bandwidth import Limits


class Open(Protocol):
    """`operations.installation.open_installation`."""

    def __call__(
        self,
        settings: Settings,
        *,
        environment: Mapping[str, str],
        clock: Callable[[], float],
        upload: Limits | None = None,
    ) -> AbstractContextManager[Installation]: ...


class TakeSnapshot(Protocol):
    """`operations.snapshot.take_snapshot`."""

    def __call__(
        self,
        installation: Installation,
        model: ModelSettings,
        *,
        labels: Mapping[str, str],
        metrics: Mapping[str, float],
        copy: bool,
        known_version: int,
        step: int | None,
        epoch: float | None,
        settling: Settling,
        progress: Progress,
        stop: threading.Event,
    ) -> SnapshotReport: ...


class CatchUp(Protocol):
    """`operations.replicate.catch_up`."""

    def __call__(
        self,
        installation: Installation,
        model: ModelSettings,
        destination: str,
        *,
        newest: int,
        progress: Progress,
        stop: threading.Event,
    ) -> list[TargetResult]: ...


class Answers(Protocol):
    """`operations.installation.target_answers`."""

    def __call__(self, installation: Installation, name: str) -> bool: ...


class Forget(Protocol):
    """`operations.forget.forget_by_policy`."""

    def __call__(
        self, installation: Installation, *, dry_run: bool, now: float
    ) -> ForgetReport: ...


class Prune(Protocol):
    """`operations.prune.prune`."""

    def __call__(
        self,
        installation: Installation,
        target: str,
        *,
        dry_run: bool,
        progress: Progress,
        stop: threading.Event,
    ) -> PruneReport: ...


class Check(Protocol):
    """`operations.check.check`."""

    def __call__(
        self,
        installation: Installation,
        target: str,
        *,
        read_data_percent: float | None,
        progress: Progress,
        stop: threading.Event,
    ) -> CheckReport: ...


class Extend(Protocol):
    """`operations.extend.extend`."""

    def __call__(
        self,
        installation: Installation,
        target: str,
        *,
        progress: Progress,
        stop: threading.Event,
    ) -> ExtendReport: ...


class Heal(Protocol):
    """`operations.repair.check_and_heal`."""

    def __call__(
        self,
        installation: Installation,
        target: str,
        *,
        read_data_percent: float | None,
        progress: Progress,
        stop: threading.Event,
    ) -> tuple[CheckReport | None, RepairReport | None]: ...


class Drill(Protocol):
    """`operations.drill.drill`."""

    def __call__(
        self,
        installation: Installation,
        spec: str,
        *,
        progress: Progress,
        stop: threading.Event,
    ) -> DrillReport: ...


class ListSnapshots(Protocol):
    """`operations.catalog.list_snapshots`."""

    def __call__(
        self,
        installation: Installation,
        *,
        model: str,
        host: str,
        labels: Mapping[str, str],
        targets: Iterable[str] | None,
    ) -> list[SnapshotInfo]: ...


@dataclass(frozen=True, slots=True)
class Verbs:
    """What the daemon does its work with."""

    open: Open
    take_snapshot: TakeSnapshot
    catch_up: CatchUp
    answers: Answers
    forget: Forget
    prune: Prune
    check: Check
    extend: Extend
    heal: Heal
    drill: Drill
    list_snapshots: ListSnapshots


def real_verbs() -> Verbs:
    """The operations. Imported here, as boto3 and numpy behind them cost a quarter of a second."""
    from backupd.operations.catalog import list_snapshots
    from backupd.operations.check import check
    from backupd.operations.drill import drill
    from backupd.operations.extend import extend
    from backupd.operations.forget import forget_by_policy
    from backupd.operations.installation import open_installation, target_answers
    from backupd.operations.prune import prune
    from backupd.operations.repair import check_and_heal
    from backupd.operations.replicate import catch_up
    from backupd.operations.snapshot import take_snapshot

    return Verbs(
        open=open_installation,
        take_snapshot=take_snapshot,
        catch_up=catch_up,
        answers=target_answers,
        forget=forget_by_policy,
        prune=prune,
        check=check,
        extend=extend,
        heal=check_and_heal,
        drill=drill,
        list_snapshots=list_snapshots,
    )
