"""Dropping snapshots, by policy or by name. The space they leave is for prune to reclaim."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, tzinfo

from backupd.config.settings import ModelSettings
from backupd.errors import BackupdError, DamagedError, TargetError
from backupd.operations.append_only import append_only
from backupd.operations.catalog import info_of
from backupd.operations.installation import Installation
from backupd.operations.names import templates_for
from backupd.operations.owed import candidate_of
from backupd.operations.reports import ForgetItem, ForgetReport
from backupd.operations.resolve import resolve
from backupd.policy.retention import decide
from backupd.policy.spec import Kind, parse_spec
from backupd.repository.repository import Repository
from backupd.repository.snapshots import SnapshotName, SnapshotRecord, StoredSnapshot


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
            judged = judge(installation, repository, model, now)
            for snapshot, reasons in judged:
                item = ForgetItem(repository.name, info_of(snapshot, (repository.name,)), reasons)
                (kept if reasons else forgotten).append(item)
            if not dry_run:
                repository.forget(*[snapshot.name for snapshot, reasons in judged if not reasons])
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

    All are found before the first is forgotten. One that is damaged beyond reading is forgotten by
    its version, as nothing could be pruned while it stands there. Raises `NotFoundError` and
    `UsageError`, and `DamagedError` where a damaged one is meant and not named by its version.
    """
    meant: list[tuple[str, StoredSnapshot]] = []
    for spec in specs:
        try:
            snapshot = resolve(installation, spec)
        except DamagedError:
            unreadable = list(_unreadable(installation, spec))
            if not unreadable:
                raise
            meant += unreadable
            continue
        meant += [(target, snapshot.stored) for target in snapshot.info.targets]
        others = installation.settings.targets.keys() - set(snapshot.info.targets)
        meant += _damaged_as(installation, snapshot.stored.record, others)
    left = append_only(installation.settings, installation.settings.targets)
    listed = {target for target, _ in meant}
    chosen = [(target, stored) for target, stored in meant if target not in left]
    if not dry_run:
        for target in dict.fromkeys(target for target, _ in chosen):
            names = [stored.name for where, stored in chosen if where == target]
            installation.repository(target).forget(*names, by_hand=True)
    forgotten = [ForgetItem(target, info_of(stored, (target,)), ()) for target, stored in chosen]
    return ForgetReport(
        (),
        tuple(forgotten),
        dry_run,
        append_only=tuple(target for target in left if target in listed),
    )


def _unreadable(installation: Installation, spec: str) -> Iterator[tuple[str, StoredSnapshot]]:
    """The damaged snapshots that are meant by version, with the target each stands on."""
    zone = datetime.now().astimezone().tzinfo
    assert zone is not None
    templates = templates_for(installation.settings, spec)
    for reading in parse_spec(spec, templates=templates, timezone=zone):
        if reading.kind is Kind.VERSION:
            host = reading.host or installation.settings.host
            record = SnapshotRecord(host, reading.model, reading.version, 0.0, b"", ())
            yield from _damaged_as(installation, record, installation.settings.targets)


def _damaged_as(
    installation: Installation, record: SnapshotRecord, targets: Iterable[str]
) -> Iterator[tuple[str, StoredSnapshot]]:
    """Those of the targets on which the snapshot of that name is damaged."""
    for target in targets:
        try:
            repository = installation.repository(target)
        except BackupdError:
            continue  # away, or damaged as a whole: nothing is forgotten there
        folder = repository.secrets.model_folder(record.host, record.model)
        name = SnapshotName(folder, record.version)
        try:
            repository.read_snapshot(name)
        except DamagedError:
            yield target, StoredSnapshot(name, record, "")
        except TargetError:
            continue
