"""Whether a repository holds what its snapshots need, and with what is found, whom it hurts.

Structure is always checked; with `read_data` blobs are opened and their ids compared.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from backupd.capture.folders import shown
from backupd.errors import BackupdError, DamagedError, StoppedError, TargetUnreachableError
from backupd.operations.installation import Installation
from backupd.operations.progress import NoProgress, Progress
from backupd.operations.reports import CheckReport, Finding
from backupd.repository import layout
from backupd.repository.index import Index, Location, PackTable
from backupd.repository.pack import read_table
from backupd.repository.reachable import chunks_of
from backupd.repository.reader import BaseLostError, BlobFinder, BlobReader, Span
from backupd.repository.records import parse_table
from backupd.repository.repository import Repository
from backupd.repository.snapshots import SnapshotName, amended, parse_name
from backupd.repository.tree_codec import decode_tree
from backupd.repository.whole import find_whole

_NAMED_FILES = 20  # per finding; the rest is counted


def check(
    installation: Installation,
    target: str,
    *,
    read_data_percent: float | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> CheckReport:
    """Check one target. `read_data_percent` of the packs, chosen anew each time, are read whole.

    Raises `TargetError` where the target cannot be reached, and `StoppedError`.
    """
    run = _Check(
        installation.repository(target),
        threads=installation.settings.limits.threads,
        progress=progress or NoProgress(),
        stop=stop or threading.Event(),
    )
    run.packs_and_index()
    run.small_objects()
    if read_data_percent is not None:
        run.read_packs(read_data_percent, installation.random)
    run.snapshots()
    return run.report()


class _Check:
    """One run: each method looks at one kind of object and adds to the findings."""

    def __init__(
        self, repository: Repository, *, threads: int, progress: Progress, stop: threading.Event
    ) -> None:
        self._repository = repository
        self._threads = threads
        self._progress = progress
        self._stop = stop
        self._findings: list[Finding] = []
        self._index = Index()
        self._present: dict[bytes, int] = {}
        self._bad_packs: dict[bytes, int] = {}
        self._bad_blobs: dict[tuple[bytes, bytes], int] = {}  # by pack and blob
        self._missing: dict[bytes, int] = {}
        self._last_copies: set[int] = set()
        self._hurt: dict[int, tuple[set[str], dict[str, None]]] = {}
        self._snapshot_count = 0
        self._blob_count = 0
        self._read_bytes = 0
        self._lock = threading.Lock()

    def report(self) -> CheckReport:
        """What was found, with whom it hurts."""
        findings = []
        for number, finding in enumerate(self._findings):
            snapshots, files = self._hurt.get(number, (set(), {}))
            named = tuple(files)[:_NAMED_FILES]
            problem = finding.problem
            if number in self._last_copies:
                problem += "; what it held can still be read in packs that prune will delete"
            pack_id = layout.pack_id_of(finding.object_name)
            if pack_id is not None and self._index.avoids(pack_id) and not snapshots:
                problem += "; nothing needs it, and prune will delete it"
                finding = replace(finding, harmless=True)
            findings.append(
                replace(finding, problem=problem, snapshots=tuple(sorted(snapshots)), files=named)
            )
        return CheckReport(
            target=self._repository.name,
            snapshots=self._snapshot_count,
            packs=len(self._present),
            blobs=self._blob_count,
            read_bytes=self._read_bytes,
            findings=tuple(findings),
        )

    def _find(self, name: str, problem: str, *, harmless: bool = False) -> int:
        with self._lock:
            finding = Finding(self._repository.name, name, problem, harmless=harmless)
            self._findings.append(finding)
            return len(self._findings) - 1

    def _checkpoint(self) -> None:
        if self._stop.is_set():
            raise StoppedError("stopped; nothing was changed")

    # -- packs, index, and what else there is ---------------------------------------------------

    def packs_and_index(self) -> None:
        """Packs are there, whole in length, and known to the index."""
        repository = self._repository
        self._progress.begin("check packs and index")
        for info in repository.target.list(layout.PACKS):
            pack_id = layout.pack_id_of(info.name)
            if pack_id is None:
                self._find(info.name, "is not an object of a repository", harmless=True)
            else:
                self._present[pack_id] = info.size_bytes
        self._index, damaged = repository.read_index_objects()
        for name, why in damaged.items():
            self._find(
                name, f"{why}; what it says is rebuilt from the packs when needed", harmless=True
            )
        for pack_id, size in self._index.packs.items():
            present = self._present.get(pack_id)
            if present is None:
                number = self._find(layout.pack_name(pack_id), "is missing")
            elif present != size:
                number = self._find(
                    layout.pack_name(pack_id), f"has {present} bytes where it should have {size}"
                )
            else:
                continue
            self._bad_packs[pack_id] = number
        unnamed = 0
        for pack_id, size in self._present.items():
            if self._index.has_pack(pack_id):
                continue
            unnamed += 1
            try:
                table = read_table(repository.target, pack_id, size, repository.sealer)
                self._index.add_table(PackTable(pack_id, size, table))
            except DamagedError as error:
                self._find(layout.pack_name(pack_id), error.message)
        if unnamed and not damaged:
            self._find(
                layout.INDEX,
                f"names {unnamed} packs less than there are, as after a snapshot that was cut "
                "short; they are used by the next one, or pruned",
                harmless=True,
            )
        self._blob_count = len(self._index)
        marked = repository.read_tombstones(self._note_tombstone)
        # As every reader does: the copies that count are those that prune will not delete.
        self._index.avoid(pack for stone in marked for pack in stone.packs)

    def small_objects(self) -> None:
        """Keys and labels can be read."""
        repository = self._repository
        for key_id in repository.key_ids():
            try:
                repository.describe_key(key_id)
            except DamagedError as error:
                self._find(f"{layout.KEYS}{key_id}.json", error.message)
        names = []
        for info in repository.target.list(layout.SNAPSHOTS):
            name = parse_name(info.name)
            if name is None:
                self._find(info.name, "is not an object of a repository", harmless=True)
            else:
                names.append(name)
        # What a forget that was killed left behind is dropped by the next one.
        forgotten = {(name.folder, name.version) for name in names if name.forgotten}
        for name in names:
            if name.amendment and (name.folder, name.version) not in forgotten:
                self._check_labels(name)

    def _note_tombstone(self, why: str) -> None:
        name = next((word for word in why.split() if word.startswith(layout.TOMBSTONES)), "")
        self._find(name or layout.TOMBSTONES, f"{why}; it marks nothing now", harmless=True)

    def _check_labels(self, name: SnapshotName) -> None:
        repository = self._repository
        try:
            base = repository.read_snapshot(SnapshotName(name.folder, name.version))
            stored = repository.target.get(name.object_name(), layout.MAX_SNAPSHOT)
            amended(base.record, stored, name.object_name(), repository.sealer)
        except BackupdError as error:
            self._find(name.object_name(), f"{error.message}; labels are lost, the snapshot is not")

    # -- data -----------------------------------------------------------------------------------

    def read_packs(self, percent: float, random: Callable[[int], bytes]) -> None:
        """Open every blob of so many percent of the packs, at least one pack."""
        packs = [pack for pack in self._present if pack not in self._bad_packs]
        if percent < 100 and packs:
            # A hash under a key drawn now picks packs as evenly as any, without a list shuffled.
            from blake3 import blake3

            key = random(32)
            packs.sort(key=lambda pack: blake3(pack, key=key).digest())
            packs = packs[: max(1, round(len(packs) * percent / 100))]
        self._progress.begin("read data", sum(self._present[pack] for pack in packs))
        work: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        for pack_id in packs:
            work.put(pack_id)
        failures: list[BaseException] = []
        threads = [
            threading.Thread(target=self._read_some, args=(work, failures), daemon=True)
            for _ in range(self._threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        self._checkpoint()

    def _read_some(self, work: queue.SimpleQueue[bytes], failures: list[BaseException]) -> None:
        repository = self._repository
        reader = BlobReader(BlobFinder(repository, self._index, lambda message: None))
        while not failures and not self._stop.is_set():
            try:
                pack_id = work.get_nowait()
            except queue.Empty:
                return
            try:
                self._read_pack(reader, pack_id)
            except TargetUnreachableError as error:
                failures.append(error)
            except BackupdError as error:
                number = self._find(layout.pack_name(pack_id), error.message)
                self._bad_packs[pack_id] = number
            except BaseException as error:
                failures.append(error)

    def _read_pack(self, reader: BlobReader, pack_id: bytes) -> None:
        """Compare the pack's own table with its blobs, and its name with its bytes."""
        from blake3 import blake3

        size = self._present[pack_id]
        hasher = blake3()
        whole = Span(pack_id, 0, size, ())
        repository = self._repository
        table = memoryview(read_table(repository.target, pack_id, size, repository.sealer))
        sealed = reader.read_span(whole)
        hasher.update(sealed)
        damaged = 0
        for record in parse_table(table, size):
            if record.base_id and not find_whole(
                self._index, record.base_id, plain=True, anywhere=True
            ):
                # The rest of what is no longer needed; `snapshots` tells where it is.
                continue
            try:
                reader.open(record, sealed[record.offset : record.offset + record.sealed_size])
            except BaseLostError as error:
                self._lose_base(error)
            except DamagedError as error:
                damaged += 1
                self._lose_copy(pack_id, record.blob_id, error.message)
        if not damaged and hasher.digest() != pack_id:
            self._find(
                layout.pack_name(pack_id),
                "its bytes do not match its name, though every blob in it can be read",
            )
        with self._lock:
            self._read_bytes += size
        self._progress.advance(size, 1)

    def _lose_base(self, error: BaseLostError) -> None:
        # Its packs are perhaps not among those that are read.
        for copy in self._copies(error.base_id, plain=True):
            if copy.pack_id not in self._bad_packs:
                self._lose_copy(copy.pack_id, error.base_id, error.message)

    def _lose_copy(self, pack_id: bytes, blob_id: bytes, why: str) -> None:
        with self._lock:
            if (pack_id, blob_id) in self._bad_blobs:
                return
            finding = Finding(self._repository.name, layout.pack_name(pack_id), why)
            self._findings.append(finding)
            self._bad_blobs[pack_id, blob_id] = len(self._findings) - 1

    # -- snapshots ------------------------------------------------------------------------------

    def snapshots(self) -> None:
        """Everything that each snapshot needs is there."""
        repository = self._repository
        listing = repository.list_snapshots()
        for name, why in listing.damaged.items():
            number = self._find(name, why)
            self._hurt[number] = ({f"version {int(name[-10:])} of a model"}, {})
        reader = BlobReader(BlobFinder(repository, self._index, lambda message: None))
        self._progress.begin("check snapshots")
        sound: set[bytes] = set()
        for snapshot in listing.snapshots:
            self._checkpoint()
            self._snapshot_count += 1
            record = snapshot.record
            name = f"{record.model}@v{record.version}"
            for tree in record.all_trees:
                if tree not in sound and self._check_tree(reader, tree, name):
                    sound.add(tree)
            self._progress.advance(0, 1)

    def _check_tree(self, reader: BlobReader, tree: bytes, snapshot: str) -> bool:
        """One tree blob and all it names; whether nothing is wrong with any of it."""
        if not self._check_blob(tree, snapshot, "(the list of files)"):
            return False
        try:
            entries = list(decode_tree(bytes(reader.read(tree))))
        except DamagedError as error:
            self._blame(tree, error.message, snapshot, "(the list of files)")
            return False
        whole = True
        for entry in entries:
            path = shown(entry.path)
            if entry.chunk_list and not self._check_blob(entry.chunk_list, snapshot, path):
                whole = False
                continue
            if entry.layout:
                whole = self._check_blob(entry.layout, snapshot, path) and whole
            try:
                for ref in chunks_of(reader, entry):
                    whole = self._check_blob(ref.blob_id, snapshot, path) and whole
            except DamagedError as error:
                self._blame(entry.chunk_list, error.message, snapshot, path)
                whole = False
        return whole

    def _check_blob(self, blob_id: bytes, snapshot: str, path: str) -> bool:
        number = self._fault(blob_id)
        if number is None:
            return True
        self._hurts(number, snapshot, path)
        return False

    def _fault(self, blob_id: bytes, *, plain: bool = False) -> int | None:
        """The finding that hurts the blob, or None where a copy can be read that will stay.

        Of copies that are there prune counts one in a pack that is not marked, as it does not
        know that it is damaged, and deletes the others.
        """
        fault = lasting = None
        for copy in self._copies(blob_id, plain=plain):
            number = self._bad_packs.get(copy.pack_id)
            if number is None:
                number = self._bad_blobs.get((copy.pack_id, blob_id))
            if number is None and copy.record.base_id:
                number = self._fault(copy.record.base_id, plain=True)
            marked = self._index.avoids(copy.pack_id)
            if number is None:
                if marked and lasting is not None:
                    self._last_copies.add(lasting)
                    return lasting
                return None
            if lasting is None and not marked and copy.pack_id in self._present:
                lasting = number
            if fault is None:
                fault = number
        if fault is None and (fault := self._missing.get(blob_id)) is None:
            fault = self._find(layout.PACKS, f"blob {blob_id.hex()} is missing")
            self._missing[blob_id] = fault
        return fault

    def _copies(self, blob_id: bytes, *, plain: bool) -> Iterator[Location]:
        """Every copy, those in packs that are not marked first; with `plain` no deltas."""
        first = self._index.find(blob_id)
        if first is not None and not (plain and first.record.base_id):
            yield first
        for copy in self._index.copies(blob_id):
            if copy != first and not (plain and copy.record.base_id):
                yield copy

    def _blame(self, blob_id: bytes, why: str, snapshot: str, path: str) -> None:
        number = self._missing.get(blob_id)
        if number is None:
            location = self._index.find(blob_id, anywhere=True)
            name = layout.pack_name(location.pack_id) if location else layout.PACKS
            number = self._missing[blob_id] = self._find(name, why)
        self._hurts(number, snapshot, path)

    def _hurts(self, number: int, snapshot: str, path: str) -> None:
        snapshots, files = self._hurt.setdefault(number, (set(), {}))
        snapshots.add(snapshot)
        files[path] = None
