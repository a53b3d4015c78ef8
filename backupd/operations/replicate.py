"""Bringing one target up to date from another: what is owed is decided, then copied.

Both versions of a clash are kept first (`renumber`), then what is missing is copied (`copier`)
by what `owed` says, the newest first, as it would be missed most.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from backupd.config.settings import ModelSettings, S3Target
from backupd.errors import BackupdError, SourcesAwayError, TargetError, TargetUnreachableError
from backupd.operations.copier import Copier
from backupd.operations.forget import zone_of
from backupd.operations.installation import Installation
from backupd.operations.owed import Keeps, clashes, newer_labels, owed
from backupd.operations.progress import NoProgress, Progress
from backupd.operations.renumber import Renumbered, Side, renumber
from backupd.operations.reports import TargetResult
from backupd.policy.retention import decide
from backupd.repository.repository import Repository
from backupd.repository.snapshots import Listing, SnapshotName, StoredSnapshot

# Packs that are on their way at once: to a disk two keep reading and writing both busy, a store
# far away answers late.
_PARALLEL_NEAR = 4
_PARALLEL_FAR = 4


@dataclass(frozen=True, slots=True)
class OwedSnapshot:
    """One line of a dry run: a snapshot that would be copied, and what that would bring over."""

    host: str
    model: str
    version: int
    time: float
    copied_bytes: int


@dataclass(slots=True)
class _Plan:
    """What a receiver is to get: snapshots, the newest first, and labels that it lacks."""

    snapshots: list[StoredSnapshot] = field(default_factory=list)
    labels: list[tuple[Listing, Listing]] = field(default_factory=list)
    renumbered: list[Renumbered] = field(default_factory=list)


def replicate(
    installation: Installation,
    source: str,
    destination: str,
    *,
    models: Iterable[str] | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> list[TargetResult]:
    """Give `destination` what `source` owes it of this host's models (see `owed`).

    With `models` None that is everything that `source` lists, of whichever host, but for what
    was forgotten by hand. The answer is what became of each snapshot. Raises `TargetError`
    where one of the two cannot be reached, and `StoppedError`.
    """
    progress = progress or NoProgress()
    plan = _planned(installation, source, destination, models, progress)
    copier = _copier(installation, source, destination, progress, stop)
    results = [
        TargetResult(item.target, item.now, 0, model=item.model, was=item.before)
        for item in plan.renumbered
    ]
    for giver, receiver in plan.labels:
        copier.copy_labels(newer_labels(giver, receiver))
    if plan.snapshots:
        results += copier.copy(plan.snapshots)
    return results


def plan_replication(
    installation: Installation,
    source: str,
    destination: str,
    *,
    models: Iterable[str] | None = None,
    progress: Progress | None = None,
) -> list[OwedSnapshot]:
    """What `replicate` would copy; nothing is changed. Where two snapshots clash, the later one
    keeps its number in this answer."""
    progress = progress or NoProgress()
    plan = _planned(installation, source, destination, models, progress, dry_run=True)
    copier = _copier(installation, source, destination, progress, None)
    return [
        OwedSnapshot(record.host, record.model, record.version, record.time, size)
        for record, size in zip(
            (snapshot.record for snapshot in plan.snapshots),
            copier.missing_bytes(plan.snapshots),
            strict=True,
        )
    ]


def catch_up(
    installation: Installation,
    model: ModelSettings,
    destination: str,
    *,
    newest: int = 0,
    progress: Progress,
    stop: threading.Event,
) -> list[TargetResult]:
    """Give one target what all others of a model owe it, from the nearest that can be reached.

    With `newest`, a version that was just taken, only names are compared first, and where no
    more than that one is missing it is copied from the first that has it: so after a snapshot
    this asks a store for one listing. Raises `TargetError` where `destination` fails, and
    `SourcesAwayError` where none of the others can be reached.
    """
    receiver = installation.repository(destination)
    failure: TargetError | None = None
    away: dict[str, BackupdError] = {}
    results: list[TargetResult] = []
    complete = False
    for name in installation.nearest_first(model.targets):
        if name == destination:
            continue
        try:
            giver = installation.repository(name)
        except TargetError as error:
            away[name] = error  # what it may owe is asked for another time
            continue
        try:
            quickly = _only_newest(installation, giver, receiver, model) if newest else None
            if quickly is not None:
                copier = _copier(installation, name, destination, progress, stop)
                results += copier.copy(quickly.missing)
                if quickly.highest >= newest:
                    complete = True
                    break
                continue
            results += replicate(
                installation, name, destination, models=[model.name], progress=progress, stop=stop
            )
            complete = True
        except TargetError as error:
            failure = failure or error
    # Also where another had nothing to give: what failed may well be the destination.
    if failure is not None:
        raise failure
    if away and not complete:
        why = "; ".join(error.message for error in away.values())
        raise SourcesAwayError(f"nothing can be copied to {destination} now: {why}")
    # What lies in an archive class is not fetched by itself: that costs, and takes hours.
    for result in results:
        if result.cold:
            progress.note(f"{result.model}@v{result.version} is not copied: {result.error}")
    return [result for result in results if not result.cold]


@dataclass(frozen=True, slots=True)
class _Quick:
    """What the names alone tell: the highest version that a giver lists, and what is missing."""

    highest: int
    missing: list[StoredSnapshot]


def _only_newest(
    installation: Installation, giver: Repository, receiver: Repository, model: ModelSettings
) -> _Quick | None:
    """The giver's newest snapshot if no more can be missing; None where all must be compared."""
    folder = giver.secrets.model_folder(installation.settings.host, model.name)
    highest = receiver.highest_version(folder)
    versions = giver.listed_versions(folder)
    above = [version for version in versions if version > highest]
    if not highest or len(above) > 1:
        return None
    missing = [giver.read_snapshot(SnapshotName(folder, version)) for version in above]
    return _Quick(max(versions, default=0), missing)


def _planned(
    installation: Installation,
    source: str,
    destination: str,
    models: Iterable[str] | None,
    progress: Progress,
    *,
    dry_run: bool = False,
) -> _Plan:
    giver, receiver = installation.repository(source), installation.repository(destination)
    plan = _Plan()
    own = set(_own_folders(installation, giver))
    for folder in _folders(installation, giver, models):
        mine, theirs = giver.list_snapshots(folder), receiver.list_snapshots(folder)
        # Another host's numbers are its own to change: it may have targets that are not known here.
        found = clashes(mine, theirs) if folder in own and not dry_run else []
        for clash in found:
            sides = Side(giver, mine), Side(receiver, theirs)
            free = _free_number(installation, folder)
            try:
                done = renumber(clash, *sides, free)
            except TargetUnreachableError:
                raise
            except TargetError as error:
                progress.note(error.message)
                continue
            plan.renumbered.append(done)
            mine, theirs = giver.list_snapshots(folder), receiver.list_snapshots(folder)
        keeps = _keeps(installation, folder, receiver)
        plan.snapshots += owed(mine, theirs, keeps)
        plan.labels.append((mine, theirs))
    plan.snapshots.sort(key=lambda snapshot: -snapshot.record.time)
    return plan


def _folders(
    installation: Installation, giver: Repository, models: Iterable[str] | None
) -> list[str]:
    if models is None:
        listing = giver.list_snapshots()
        return sorted({snapshot.name.folder for snapshot in listing.snapshots})
    host = installation.settings.host
    return [giver.secrets.model_folder(host, model) for model in models]


def _own_folders(installation: Installation, repository: Repository) -> list[str]:
    settings = installation.settings
    return [repository.secrets.model_folder(settings.host, model) for model in settings.models]


def _keeps(installation: Installation, folder: str, receiver: Repository) -> Keeps | None:
    """The receiver's policy for a model of this configuration, None where there is none."""
    settings = installation.settings
    for model in settings.models.values():
        if receiver.secrets.model_folder(settings.host, model.name) == folder:
            rules = [settings.policies[name] for name in model.targets.get(receiver.name, ())]
            if not rules:
                return None
            zone, now = zone_of(model), installation.clock()
            return lambda candidates: frozenset(
                decision.candidate.version
                for decision in decide(candidates, rules, now, zone)
                if decision.keep
            )
    return None


def _free_number(installation: Installation, folder: str) -> Callable[[], int]:
    """The next number of a model, above all that any target which can be reached has had."""

    def free() -> int:
        opened = installation.repositories(failed={})
        return 1 + max(repository.highest_version(folder) for repository in opened)

    return free


def _copier(
    installation: Installation,
    source: str,
    destination: str,
    progress: Progress,
    stop: threading.Event | None,
) -> Copier:
    targets = installation.settings.targets
    far = any(isinstance(targets[name], S3Target) for name in (source, destination))
    return Copier(
        installation.repository(source),
        installation.repository(destination),
        clock=installation.clock,
        parallel=_PARALLEL_FAR if far else _PARALLEL_NEAR,
        progress=progress,
        stop=stop or threading.Event(),
    )
