"""Adding to a repository: packs, then index, then snapshot, and no lock anywhere.

A writer never relies on a pack that prune has marked, and looks again before it commits; what
it relied on and was marked meanwhile, it copies to a pack of its own. docs/format.md has the
argument why nothing that a listed snapshot needs can be deleted.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from backupd.errors import BackupdError, DamagedError
from backupd.repository.copying import StaleIndexError, copy_packs, put_index
from backupd.repository.index import Index, Location
from backupd.repository.index_object import PackTable
from backupd.repository.layout import MAX_SNAPSHOT, PACKS, pack_id_of, pack_name
from backupd.repository.pack import PackBuilder
from backupd.repository.pack_stream import PackStream
from backupd.repository.reachable import blobs_of
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.records import ids_in
from backupd.repository.repository import Repository
from backupd.repository.snapshots import SnapshotName, SnapshotRecord, encode_snapshot
from backupd.repository.whole import find_whole

GRACE_SECONDS = 24 * 3600.0
# An index object is written after so many packs, or so many seconds, whichever is first: what a
# crash may leave unnamed, and has to be stored again, is no more than that.
_FLUSH_PACKS = 64
_FLUSH_SECONDS = 60.0
_LOOK_FOR_STOP_SECONDS = 0.25
# So many packs are asked for one by one; then a listing of all costs less. Where each request
# is a wait, that is so after as many as a listing takes, of 1,000 names each.
_ASK_MOST = 64
_ASK_MOST_FAR = 4
_LISTED_AT_ONCE = 1000


class Writer:
    """One snapshot's (or copy's) way into a repository. Safe for several threads.

    `workers` is how many `PackStream`s will be open at once, `parallel_puts` how many packs are
    put at once behind them; with 0 each stream puts its own packs, which is as fast where a put
    costs no waiting. Memory is `(workers + parallel_puts)` pack buffers, and what of another one
    is filled with trees and the like.
    """

    def __init__(
        self,
        repository: Repository,
        index: Index,
        *,
        clock: Callable[[], float],
        workers: int,
        parallel_puts: int = 0,
        grace_seconds: float = GRACE_SECONDS,
        note: Callable[[str], None] = lambda message: None,
        stop: threading.Event | None = None,
    ) -> None:
        """When `stop` is set, what has been put is named in the index at once, and from then on
        each pack as it is put: what is on its way may take longer than there is time to stop in.
        """
        self.repository = repository
        self.index = index
        self.stored_bytes = 0
        self._clock = clock
        self._grace = grace_seconds
        self._note = note
        self._started = clock()
        self._lock = threading.Lock()
        self._in_flight: set[bytes] = set()
        self._there: set[bytes] = set()
        self._asked = 0
        self._ask_most = _ASK_MOST
        if repository.is_far:
            self._ask_most = max(_ASK_MOST_FAR, index.pack_count // _LISTED_AT_ONCE)
        self._unflushed: list[PackTable] = []
        self._flushed_at = self._started
        self._hurried = False
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        # Data and the rest have builders of their own: a stream that holds one of each must not
        # wait for itself.
        self._builders: dict[bool, queue.SimpleQueue[PackBuilder]] = {
            False: queue.SimpleQueue(),
            True: queue.SimpleQueue(),
        }
        self._builder_count = {False: 0, True: 0}
        self._builder_limit = workers + parallel_puts
        self._full: queue.SimpleQueue[PackBuilder | None] = queue.SimpleQueue()
        self._putters = [
            threading.Thread(target=self._put_packs, name=f"put-{number}", daemon=True)
            for number in range(parallel_puts)
        ]
        index.avoid(pack for stone in repository.read_tombstones(note) for pack in stone.packs)
        for putter in self._putters:
            putter.start()
        if stop is not None:
            threading.Thread(
                target=self._hurry_on, args=(stop,), name="index-on-stop", daemon=True
            ).start()

    # -- what streams call --------------------------------------------------------------------

    def claim(self, blob_id: bytes) -> bool:
        """Whether the caller is to store this blob: it is neither stored nor on its way."""
        if self.find(blob_id) is not None:
            return False
        with self._lock:
            if blob_id in self._in_flight:
                return False
            self._in_flight.add(blob_id)
            return True

    def claim_all(self, blob_ids: Sequence[bytes]) -> list[bool]:
        """What `claim` says of each in turn, in a fraction of its time where most are new."""
        known = self.index.may_have(blob_ids)
        claimed = []
        for blob_id, held in zip(blob_ids, known, strict=True):
            if held and self.find(blob_id) is not None:
                claimed.append(False)
                continue
            with self._lock:
                claimed.append(blob_id not in self._in_flight)
                self._in_flight.add(blob_id)
        return claimed

    def disclaim(self, blob_id: bytes) -> None:
        """A claimed blob is not stored after all."""
        with self._lock:
            self._in_flight.discard(blob_id)

    def find(self, blob_id: bytes, *, plain: bool = False) -> Location | None:
        """Where a blob lies that the snapshot may rely on, or None.

        A delta only where its base is there as well; with `plain` no delta at all.
        """
        while (location := find_whole(self.index, blob_id, plain=plain)) is not None:
            base_id = location.record.base_id
            if not self._is_there(location.pack_id):
                self.index.avoid([location.pack_id])
            elif not base_id or self.find(base_id, plain=True) is not None:
                return location
        return None

    def _is_there(self, pack_id: bytes) -> bool:
        """Whether a pack that the index names is really there; asked once for each.

        The index may have been read before the tombstones, while a prune deleted what both
        named, and one prune may write an index that names what another has just deleted.
        """
        if pack_id in self._there:
            return True
        target = self.repository.target
        with self._lock:
            list_all = self._asked == self._ask_most
            self._asked += 1
        if list_all:
            found = {pack_id_of(info.name) for info in target.list(PACKS)}
            self._there |= {pack for pack in found if pack is not None}
        elif target.stat(pack_name(pack_id)) is not None:
            self._there.add(pack_id)
        return pack_id in self._there

    def may_take_over(self, pack_id: bytes) -> bool:
        """Whether another repository's pack may be put here under its own name.

        One that is due for deletion here may not: prune would take the copy with it.
        """
        return not self.index.avoids(pack_id)

    def is_on_its_way(self, blob_id: bytes) -> bool:
        """Whether a claimed blob is not put yet."""
        with self._lock:
            return blob_id in self._in_flight

    def stream(self) -> PackStream:
        """A stream for one thread."""
        return PackStream(self)

    def take_builder(self, *, warm: bool) -> PackBuilder:
        """An empty builder; waits for one to be put where all are in use."""
        free = self._builders[warm]
        with self._lock:
            if self._builder_count[warm] < self._builder_limit and free.empty():
                self._builder_count[warm] += 1
                return PackBuilder(self.repository.sealer, warm=warm)
        while True:
            self.raise_failure()
            try:
                return free.get(timeout=0.5)
            except queue.Empty:
                continue

    def submit(self, builder: PackBuilder) -> None:
        """Put a filled pack, in the background if there is one; the builder comes back."""
        self.raise_failure()
        if self._putters:
            self._full.put(builder)
            return
        try:
            self._put(builder)
        finally:
            self.give_back(builder)

    def give_back(self, builder: PackBuilder) -> None:
        """Return a builder with nothing in it."""
        builder.reset()
        self._builders[builder.warm].put(builder)

    def raise_failure(self) -> None:
        """Raise what made a put fail, if one did."""
        if self._failure is not None:
            raise self._failure

    # -- putting ------------------------------------------------------------------------------

    def _put_packs(self) -> None:
        while (builder := self._full.get()) is not None:
            try:
                if self._failure is None:
                    self._put(builder)
            except BaseException as error:
                self._failure = error
            finally:
                self.give_back(builder)

    def _put(self, builder: PackBuilder) -> None:
        pack = builder.finish()
        self.put_pack(pack.pack_id, pack.data, pack.table, warm=builder.warm)

    def put_pack(self, pack_id: bytes, data: memoryview, table_bytes: bytes, *, warm: bool) -> None:
        """Put a whole pack, made here or copied as it is; for a copy see `may_take_over`."""
        size = len(data)
        self.repository.target.put(pack_name(pack_id), [data], warm=warm)
        table = PackTable(pack_id, size, table_bytes)
        self._there.add(pack_id)
        self.index.add_fresh(table)
        with self._lock:
            self.stored_bytes += size
            self._in_flight.difference_update(ids_in(table_bytes))
            self._unflushed.append(table)
            due = (
                self._hurried
                or len(self._unflushed) >= _FLUSH_PACKS
                or self._clock() - self._flushed_at >= _FLUSH_SECONDS
            )
        if due:
            self.flush_index()

    def _hurry_on(self, stop: threading.Event) -> None:
        # The threads that store and put may all be waiting for a slow target.
        while not stop.is_set():
            if self._ended.wait(_LOOK_FOR_STOP_SECONDS):
                return
        self._hurry()

    def _hurry(self) -> None:
        self._hurried = True
        try:
            self.flush_index()
        except BackupdError:
            pass  # the target's failure is told by what else is put

    def flush_index(self) -> None:
        """Write an index object of the packs that none names yet."""
        with self._lock:
            packs, self._unflushed = self._unflushed, []
            self._flushed_at = self._clock()
        if packs:
            put_index(self.repository, packs)

    # -- the end ------------------------------------------------------------------------------

    def finish(self) -> None:
        """Wait until everything submitted is stored and indexed. Raises what failed."""
        for _ in self._putters:
            self._full.put(None)
        for putter in self._putters:
            putter.join()
        self._putters = []
        self._ended.set()
        try:
            self.flush_index()
        except BackupdError:
            if self._failure is None:
                raise
        self.raise_failure()

    def abandon(self) -> None:
        """End after a failure or a stop: what was stored is indexed, so that it is not lost."""
        self._hurry()
        try:
            self.finish()
        except BackupdError:
            pass  # the one who abandons has a failure to tell already

    def commit(
        self,
        record: SnapshotRecord,
        lowest_version: Callable[[], int] = lambda: 1,
        complete: Callable[[SnapshotRecord], SnapshotRecord] = lambda versioned: versioned,
    ) -> SnapshotRecord:
        """List the snapshot, under the next free version; the record with that version.

        `complete` adds to a record what needs its version; it is called for each that is tried.
        To be called after `finish`. Raises `StaleIndexError` where packs are gone that it
        needs, as may be after it ran for longer than the grace period.
        """
        folder = self.repository.secrets.model_folder(record.host, record.model)
        self._look_again(record, folder)
        version = max(self.repository.highest_version(folder) + 1, lowest_version())
        while not self._list_as(listed := complete(replace(record, version=version)), folder):
            version += 1
        return listed

    def list_copy(self, record: SnapshotRecord, name: str, stored: bytes) -> None:
        """List a snapshot of another target as it is there. After `finish`.

        Raises `DamagedError` where another snapshot stands under the name.
        """
        self._look_again(record)
        target = self.repository.target
        if not target.put_if_absent(name, [stored]) and target.get(name, MAX_SNAPSHOT) != stored:
            raise DamagedError(f"{name} on {self.repository.name} is another snapshot")

    def _list_as(self, record: SnapshotRecord, folder: str) -> bool:
        """Create the snapshot under its version; false where that number was used before."""
        target = self.repository.target
        name = SnapshotName(folder, record.version).object_name()
        if not target.put_if_absent(name, [encode_snapshot(record, name, self.repository.sealer)]):
            return False
        marker = SnapshotName(folder, record.version, forgotten=True).object_name()
        if target.stat(marker) is None:
            return True
        # The number was used and forgotten after the folder was listed.
        target.delete(name)
        return False

    def _look_again(self, record: SnapshotRecord, folder: str = "") -> None:
        """Copy what was marked for deletion meanwhile out of its packs.

        With `folder` the snapshot may hold entries of its parent that were kept unlooked at.
        """
        due = {p for stone in self.repository.read_tombstones(self._note) for p in stone.packs}
        # After the tombstones: while the parent is listed, what it needs is there or is marked.
        orphaned = bool(folder and record.parent) and not self._is_listed(folder, record.parent)
        if orphaned or self._clock() - self._started > self._grace / 2:
            present = {info.name for info in self.repository.target.list(PACKS)}
            due |= {pack for pack in self.index.packs if pack_name(pack) not in present}
        if not due and not orphaned:
            return
        self.index.avoid(due)
        reader = BlobReader(BlobFinder(self.repository, self.index, self._note, anywhere=True))
        to_copy = set()
        try:
            for needed in blobs_of(reader, record):
                location = reader.finder.find(needed.blob_id, plain=needed.plain)
                if self.index.avoids(location.pack_id):
                    to_copy.add(location.pack_id)
        except DamagedError as error:
            raise StaleIndexError(
                f"what the snapshot relied on was deleted meanwhile: {error.message}",
                hint="take the snapshot again; what is stored already is not stored twice",
            ) from None
        if to_copy:
            copy_packs(self.repository, to_copy)

    def _is_listed(self, folder: str, version: int) -> bool:
        target = self.repository.target
        marker = SnapshotName(folder, version, forgotten=True).object_name()
        name = SnapshotName(folder, version).object_name()
        return target.stat(name) is not None and target.stat(marker) is None
