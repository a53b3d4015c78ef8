"""What is wrong with a repository, as it is gathered: findings, damaged copies, whom they hurt.

`check` fills it and makes a report of it; `repair` decides by it. Nothing here reads a target.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

from backupd.operations.reports import CheckReport, Finding
from backupd.repository import layout
from backupd.repository.index import Index, Location
from backupd.repository.records import BlobKind
from backupd.repository.snapshots import SnapshotRecord

_NAMED_FILES = 1000  # per finding; more nobody reads, and a report is to have an end
_PLACES = 4  # of one blob; more of them are hardly any better


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk stood in a model's folder when its snapshot was taken; sizes in bytes.

    Of a chunk list or a layout it is the whole file, with its extents.
    """

    record: SnapshotRecord
    path: bytes
    offset: int
    size_bytes: int
    extents: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True)
class Wound:
    """A needed blob without a copy that will stay; with `plain` it is a base.

    `number` is the finding that it belongs to, `places` where its bytes may still be.
    """

    blob_id: bytes
    plain: bool
    kind: BlobKind
    number: int
    places: list[Place]


class Diagnosis:
    """All that one look at a target found. `find` and `lose_copy` are safe for threads.

    `present` has the stored size of each pack that is there, `bad_packs` and `misnamed` the
    finding of each that is damaged as a whole or only not what its name says, `bad_blobs` that
    of each damaged copy by pack and blob, `bad_objects` that of all other objects. `unnamed`
    are packs that no index object names. What lies in `dying` packs counts for nothing.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.findings: list[Finding] = []
        self.index = Index()
        self.present: dict[bytes, int] = {}
        # Packs in an archive class, which are there and are not read.
        self.cold: set[bytes] = set()
        self.bad_packs: dict[bytes, int] = {}
        self.misnamed: dict[bytes, int] = {}
        self.bad_blobs: dict[tuple[bytes, bytes], int] = {}
        self.bad_objects: dict[str, int] = {}
        self.unnamed: set[bytes] = set()
        self.dying: set[bytes] = set()
        self.wounds: dict[tuple[bytes, bool], Wound] = {}
        # Of snapshots that were looked at: the names of those that lack nothing.
        self.sound: set[str] = set()
        self.snapshot_count = 0
        self.blob_count = 0
        self.read_bytes = 0
        self._missing: dict[bytes, int] = {}
        self._last_copies: set[int] = set()
        self._hurt: dict[int, tuple[set[str], dict[str, None]]] = {}
        self._lock = threading.Lock()

    # -- gathering ------------------------------------------------------------------------------

    def find(self, name: str, problem: str, *, harmless: bool = False) -> int:
        """Add a finding; its number."""
        with self._lock:
            self.findings.append(Finding(self.target, name, problem, harmless=harmless))
            return len(self.findings) - 1

    def lose_copy(self, pack_id: bytes, blob_id: bytes, why: str) -> None:
        """The copy of a blob in this pack is damaged."""
        with self._lock:
            if (pack_id, blob_id) not in self.bad_blobs:
                self.findings.append(Finding(self.target, layout.pack_name(pack_id), why))
                self.bad_blobs[pack_id, blob_id] = len(self.findings) - 1

    def lose_base(self, base_id: bytes, why: str) -> None:
        """No copy of a base can be read: its packs are perhaps not among those that are read."""
        for copy in self.copies(base_id, plain=True):
            if copy.pack_id not in self.bad_packs:
                self.lose_copy(copy.pack_id, base_id, why)

    def add_read(self, size_bytes: int) -> None:
        """So many bytes more were read."""
        with self._lock:
            self.read_bytes += size_bytes

    def hurts(self, number: int, snapshot: str, path: str) -> None:
        """A finding hurts a file of a snapshot; an empty path stands for the snapshot alone."""
        snapshots, files = self._hurt.setdefault(number, (set(), {}))
        snapshots.add(snapshot)
        if path:
            files[path] = None

    def blame(self, blob_id: bytes, why: str, snapshot: str, path: str) -> None:
        """A blob that can be read is not what it should be, or was found damaged by reading."""
        number = self._missing.get(blob_id)
        if number is None:
            location = self.index.find(blob_id, anywhere=True)
            name = layout.pack_name(location.pack_id) if location else layout.PACKS
            number = self._missing[blob_id] = self.find(name, why)
            if location is not None:
                self.bad_blobs.setdefault((location.pack_id, blob_id), number)
        self.hurts(number, snapshot, path)

    @property
    def hurt_packs(self) -> set[bytes]:
        """Every pack that is not what it should be, or not there."""
        return {*self.bad_packs, *self.misnamed, *(pack for pack, _ in self.bad_blobs)}

    def problem_of(self, pack_id: bytes) -> str:
        """What is wrong with a pack, in words."""
        number = self.bad_packs.get(pack_id, self.misnamed.get(pack_id))
        if number is not None:
            return self.findings[number].problem
        count = sum(pack == pack_id for pack, _ in self.bad_blobs)
        return f"{count} of its blobs are damaged"

    # -- which copy counts ----------------------------------------------------------------------

    def copies(self, blob_id: bytes, *, plain: bool) -> Iterator[Location]:
        """Every copy, those in packs that are not marked first; with `plain` no deltas."""
        first = self.index.find(blob_id)
        if first is not None and not (plain and first.record.base_id):
            yield first
        for copy in self.index.copies(blob_id):
            if copy != first and not (plain and copy.record.base_id):
                yield copy

    def bad_copy(self, copy: Location) -> int | None:
        """The finding that says that this very copy is damaged, or None."""
        number = self.bad_packs.get(copy.pack_id)
        return self.bad_blobs.get((copy.pack_id, copy.record.blob_id)) if number is None else number

    def lasts(self, blob_id: bytes, *, plain: bool = False) -> bool:
        """Whether a copy can be read that will stay.

        Of copies that are there prune counts one in a pack that is not marked, as it does not
        know that it is damaged, and deletes the others.
        """
        counted = False
        for copy in self.copies(blob_id, plain=plain):
            if copy.pack_id in self.dying:
                continue
            base_id = copy.record.base_id
            damaged = self.bad_copy(copy) is not None
            marked = self.index.avoids(copy.pack_id)
            if not damaged and (not base_id or self.lasts(base_id, plain=True)):
                return not (marked and counted)
            if not marked and copy.pack_id in self.present:
                counted = counted or damaged or any(self.copies(base_id, plain=True))
        return False

    def fault(
        self, blob_id: bytes, *, plain: bool = False, kind: BlobKind = BlobKind.DATA
    ) -> int | None:
        """The finding that hurts the blob, which becomes a wound; None where it lasts."""
        if self.lasts(blob_id, plain=plain):
            return None
        fault = None
        readable = False
        for copy in self.copies(blob_id, plain=plain):
            number = self.bad_copy(copy)
            if number is None and copy.record.base_id:
                number = self.fault(copy.record.base_id, plain=True)
            readable = readable or number is None
            if fault is None:
                fault = number
        if fault is None and (fault := self._missing.get(blob_id)) is None:
            fault = self.find(layout.PACKS, f"blob {blob_id.hex()} is missing")
            self._missing[blob_id] = fault
        if readable:
            self._last_copies.add(fault)
        self.wounds.setdefault((blob_id, plain), Wound(blob_id, plain, kind, fault, []))
        return fault

    def needs(
        self,
        blob_id: bytes,
        snapshot: str,
        path: str,
        *,
        kind: BlobKind,
        place: Place | None = None,
    ) -> bool:
        """Whether a blob that a snapshot needs is there; else the snapshot is hurt."""
        number = self.fault(blob_id, kind=kind)
        if number is None:
            return True
        self.hurts(number, snapshot, path)
        wound = self.wounds[blob_id, False]
        if place is not None and len(wound.places) < _PLACES:
            wound.places.append(place)
        return False

    # -- the end --------------------------------------------------------------------------------

    def told(self, number: int) -> Finding:
        """A finding with whom it hurts."""
        finding = self.findings[number]
        snapshots, files = self._hurt.get(number, (set(), {}))
        problem = finding.problem
        if number in self._last_copies:
            problem += "; what it held can still be read in packs that prune will delete"
        pack_id = layout.pack_id_of(finding.object_name)
        if pack_id is not None and self.index.avoids(pack_id) and not snapshots:
            problem += "; nothing needs it, and prune will delete it"
            finding = replace(finding, harmless=True)
        return replace(
            finding,
            problem=problem,
            snapshots=tuple(sorted(snapshots)),
            files=tuple(files)[:_NAMED_FILES],
        )

    def report(self) -> CheckReport:
        """What was found, with whom it hurts."""
        return CheckReport(
            target=self.target,
            snapshots=self.snapshot_count,
            packs=len(self.present),
            blobs=self.blob_count,
            read_bytes=self.read_bytes,
            findings=tuple(self.told(number) for number in range(len(self.findings))),
        )
