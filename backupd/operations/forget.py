"""Dropping snapshots, by policy or by name. The space they leave is for prune to reclaim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import tzinfo

from backupd.config.settings import ModelSettings
from backupd.errors import BackupdError
from backupd.operations.append_only import append_only
from backupd.operations.catalog import info_of
from backupd.operations.installation import Installation
from backupd.operations.owed import candidate_of
from backupd.operations.reports import ForgetItem, ForgetReport
from backupd.operations.resolve import resolve
from backupd.policy.retention import decide
from backupd.repository.repository import Repository, StoredSnapshot


def forget_by_policy(
    installation: Installation,
    *,
    models: Iterable[str] = (),
    dry_run: bool = False,
    now: float,
) -> ForgetReport:
    """Forget what the policies of the configured models (all when none is named) do not keep.

    Each target is judged by its own policies; one without any keeps everything. The newest
    snapshot is always kept. `now` is in seconds since the epoch. Raises `NotFoundError` for an
    unknown model, `TargetError` when none of a model's targets can be reached; one that is away
    is named in the report.
    """
    names = list(models) or list(installation.settings.models)
    kept: list[ForgetItem] = []
    forgotten: list[ForgetItem] = []
    unreachable: dict[str, BackupdError] = {}
    left: dict[str, None] = {}
    for name in names:
        model = installation.model(name)
        left |= dict.fromkeys(append_only(installation.settings, model.targets))
        targets = [target for target in model.targets if target not in left]
        for repository in installation.repositories(targets, failed=unreachable):
            for snapshot, reasons in judge(installation, repository, model, now):
                item = ForgetItem(repository.name, info_of(snapshot, (repository.name,)), reasons)
                (kept if reasons else forgotten).append(item)
                if not reasons and not dry_run:
                    repository.forget(snapshot.name)
    away = {name: error.message for name, error in unreachable.items()}
    return ForgetReport(tuple(kept), tuple(forgotten), dry_run, away, tuple(left))


def judge(
    installation: Installation, repository: Repository, model: ModelSettings, now: float
) -> list[tuple[StoredSnapshot, tuple[str, ...]]]:
    """This host's snapshots of a model on a target, each with the reasons to keep it."""
    folder = repository.secrets.model_folder(installation.settings.host, model.name)
    snapshots = repository.list_snapshots(folder).snapshots
    policies = model.targets.get(repository.name, ())
    if not policies:
        return [(snapshot, ("no policy: everything is kept",)) for snapshot in snapshots]
    decisions = decide(
        [candidate_of(snapshot) for snapshot in snapshots],
        [installation.settings.policies[name] for name in policies],
        now,
        zone_of(model),
    )
    reasons = {decision.candidate.version: decision.reasons for decision in decisions}
    return [(snapshot, reasons[snapshot.record.version]) for snapshot in snapshots]


def zone_of(model: ModelSettings) -> tzinfo:
    """The zone in which the model's days and weeks begin: its own, else the box's."""
    from datetime import datetime
    from zoneinfo import ZoneInfo

    if model.timezone:
        return ZoneInfo(model.timezone)
    zone = datetime.now().astimezone().tzinfo
    assert zone is not None
    return zone


def forget_snapshots(
    installation: Installation, specs: Sequence[str], *, dry_run: bool = False
) -> ForgetReport:
    """Forget the named snapshots wherever they are listed, whatever the policies say.

    All are found before the first is forgotten. Raises `NotFoundError` and `UsageError`.
    """
    snapshots = [resolve(installation, spec) for spec in specs]
    forgotten = []
    left = append_only(installation.settings, installation.settings.targets)
    listed = {target for snapshot in snapshots for target in snapshot.info.targets}
    for snapshot in snapshots:
        for target in snapshot.info.targets:
            if target in left:
                continue
            forgotten.append(ForgetItem(target, snapshot.info, ()))
            if not dry_run:
                installation.repository(target).forget(snapshot.stored.name, by_hand=True)
    return ForgetReport(
        (),
        tuple(forgotten),
        dry_run,
        append_only=tuple(target for target in left if target in listed),
    )
