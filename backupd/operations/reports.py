"""What the verbs answer: plain values that the command line, the daemon and `--json` show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backupd.repository.danger import Danger


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """One listed snapshot, without its tree. `time` is seconds since the epoch, UTC.

    `id` is the hex BLAKE3 of the stored snapshot object; `targets` names where it is listed.
    `incomplete` names paths that were left out, or kept as an earlier snapshot has them, because
    they were not whole or never held still. `step` and `epoch` say how far the training was, None
    where nobody told. `code` is what docs/format.md says. `findings` are files that may run code
    when they are loaded.
    """

    id: str
    host: str
    model: str
    version: int
    time: float
    root: str
    parent: int
    labels: Mapping[str, str]
    metrics: Mapping[str, float]
    file_count: int
    size_bytes: int
    added_bytes: int
    stored_bytes: int
    duration_seconds: float
    incomplete: tuple[str, ...]
    skipped: tuple[str, ...]
    targets: tuple[str, ...] = ()
    project: str = ""
    scheme: str = "everything"
    step: int | None = None
    epoch: float | None = None
    code: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Danger, ...] = ()

    @property
    def name(self) -> str:
        """`MODEL@vN`."""
        return f"{self.model}@v{self.version}"


@dataclass(frozen=True, slots=True)
class TargetResult:
    """What became of a snapshot on one target; `error` is empty where it is whole there.

    `pending` says that it is not there yet, and will be copied by itself. `was` is the number
    that the snapshot had before, where another one turned out to have it too. `cold` says that
    the error is an archive class that would have to be thawed first.
    """

    target: str
    version: int
    stored_bytes: int
    error: str = ""
    model: str = ""
    pending: bool = False
    was: int = 0
    cold: bool = False


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """The end of one `snapshot` of one model.

    Where nothing changed, `snapshot` is the one that is still the newest. `retry` says that
    something beside the snapshot is to be tried again, such as a push of its code. `incomplete`
    says what this run found and could not take.
    """

    model: str
    unchanged: bool
    snapshot: SnapshotInfo | None
    targets: tuple[TargetResult, ...]
    notes: tuple[str, ...] = ()
    retry: bool = False
    incomplete: tuple[str, ...] = ()

    @property
    def partial(self) -> bool:
        """Whether something is missing: a file left out, a target not reached."""
        return bool(self.incomplete) or any(result.error for result in self.targets)


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """The end of one restore: counts, and each path that could not be given, with why.

    `findings` are those of the files that were given. `cold_packs` were met that have to be
    thawed first.
    """

    restored_files: int
    restored_bytes: int
    skipped_files: int
    failed: Mapping[str, str]
    notes: tuple[str, ...] = ()
    findings: tuple[Danger, ...] = ()
    cold_packs: int = 0


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One line of `restore --dry-run`: what would be done (`create`, `overwrite`, `skip`)."""

    path: str
    action: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that check found: the object, what is wrong, and whom it hurts."""

    target: str
    object_name: str
    problem: str
    snapshots: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    harmless: bool = False


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The end of one check of one target."""

    target: str
    snapshots: int
    packs: int
    blobs: int
    read_bytes: int
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing that matters was found."""
        return all(finding.harmless for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Mended:
    """One thing that a repair did, or would try: with which object, from where, and why.

    `verb` is `replace` (under its own name), `store` (in new packs), `rewrite` (what can be read
    of a pack is elsewhere now, and prune will delete it), `index` (written anew), `drop`.
    """

    object_name: str
    verb: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class RepairReport:
    """The end of one repair of one target: what was mended, and what is still damaged.

    With `dry_run` what would be tried, and what nobody offers.
    """

    target: str
    mended: tuple[Mended, ...]
    lost: tuple[Finding, ...]
    dry_run: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DrillReport:
    """The end of one drill: files restored and compared, those that did not fit, what failed.

    `live_files` were compared with the model's folder too; `failed` says by path what is wrong.
    """

    snapshot: str
    target: str
    files: int
    size_bytes: int
    left_out: int
    live_files: int
    failed: Mapping[str, str]
    duration_seconds: float

    @property
    def clean(self) -> bool:
        """Whether everything was as it was stored."""
        return not self.failed


@dataclass(frozen=True, slots=True)
class ForgetItem:
    """One snapshot of one target, and why it is kept (`reasons`) or not (none)."""

    target: str
    snapshot: SnapshotInfo
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """What forget did, or with dry run would do.

    Targets that are `unreachable`, or `append_only` here, are left as they were.
    """

    kept: tuple[ForgetItem, ...]
    forgotten: tuple[ForgetItem, ...]
    dry_run: bool
    unreachable: Mapping[str, str] = field(default_factory=dict)
    append_only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What prune did on one target, or with dry run would do; sizes in stored bytes.

    `held_bytes` are blobs that no snapshot holds itself, kept as the bases of deltas. Where the
    bucket has an Object Lock, `purged_bytes` of old versions went and `waiting_bytes` may not yet.
    """

    target: str
    packs_total: int
    packs_marked: int
    packs_deleted: int
    packs_repacked: int
    marked_bytes: int
    deleted_bytes: int
    repacked_bytes: int
    unmarked: int
    dry_run: bool
    held_bytes: int = 0
    purged_bytes: int = 0
    waiting_bytes: int = 0
    notes: tuple[str, ...] = field(default=())
