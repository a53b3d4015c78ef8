"""Getting blobs back: found, read, opened, decoded and verified against their ids.

A blob that the index does not know is looked for in the packs themselves before it counts as
missing, so that a lost index object costs nothing but time.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator

from backupd.codec.blob import BlobDecoder, Buffer
from backupd.errors import (
    ColdError,
    DamagedError,
    ObjectMissingError,
    TargetError,
    TargetUnreachableError,
)
from backupd.repository.index import Index, Location
from backupd.repository.layout import MIB, pack_name
from backupd.repository.planned_reads import PlannedReads
from backupd.repository.read_order import Span, alone
from backupd.repository.records import BlobKind, BlobRecord
from backupd.repository.repository import Repository
from backupd.repository.warm_packs import WarmPacks
from backupd.repository.whole import find_whole


class BaseLostError(DamagedError):
    """A delta is as it was stored, and no copy of its base can be read."""

    def __init__(self, base_id: bytes, message: str) -> None:
        super().__init__(message)
        self.base_id = base_id


class BlobFinder:
    """The index with a second look at the packs. Safe for several threads.

    A reader takes a blob from any pack (`anywhere`), also from one that is marked.
    """

    def __init__(
        self,
        repository: Repository,
        index: Index,
        note: Callable[[str], None],
        *,
        anywhere: bool = True,
    ) -> None:
        self.repository = repository
        self.index = index
        self._note = note
        self._anywhere = anywhere
        self._recovered = False
        self._lock = threading.Lock()
        # Packs that were found to be in an archive class: not asked for again.
        self.cold: set[bytes] = set()
        # What is going to be read, where a target is far; and, there, of what is no data.
        self.planned: PlannedReads | None = None
        self.warm: WarmPacks | None = None
        if repository.is_far:
            self.warm = WarmPacks(repository.target, index.pack_size)

    def find(self, blob_id: bytes, *, plain: bool = False) -> Location:
        """Where the blob lies, with `plain` as one without a base.

        Raises `DamagedError` when it is nowhere.
        """
        location = find_whole(self.index, blob_id, plain=plain, anywhere=self._anywhere)
        if location is None:
            self._recover()
            location = find_whole(self.index, blob_id, plain=plain, anywhere=self._anywhere)
        if location is None:
            raise DamagedError(f"blob {blob_id.hex()} is missing from {self.repository.name}")
        return location

    def copies(self, blob_id: bytes, *, plain: bool = False) -> Iterator[Location]:
        """Every copy of the blob: what `find` gives first, those that no index names last.

        Raises `DamagedError` as `find` does.
        """
        given = [self.find(blob_id, plain=plain)]
        yield given[0]
        yield from self._others(blob_id, plain, given)
        self._recover()
        yield from self._others(blob_id, plain, given)

    def _others(self, blob_id: bytes, plain: bool, given: list[Location]) -> Iterator[Location]:
        for copy in self.index.copies(blob_id):
            usable = self._anywhere or not self.index.avoids(copy.pack_id)
            if usable and not (plain and copy.record.base_id) and copy not in given:
                given.append(copy)
                yield copy

    def _recover(self) -> None:
        with self._lock:
            if not self._recovered:
                self._recovered = True
                count = self.repository.recover_index(self.index, self._note)
                if count:
                    self._note(
                        f"{self.repository.name}: the index lacked {count} packs; "
                        "they were read from the packs themselves"
                    )


class BlobReader:
    """Reads and opens blobs with kept buffers; each thread has its own."""

    def __init__(self, finder: BlobFinder, *, bases: bool = True) -> None:
        """`bases` says whether a blob may stand on a base; a base itself may not."""
        self.finder = finder
        self._bases = bases
        self._base_reader: BlobReader | None = None
        self._held_id = b""
        self._held_base: Buffer | None = None
        self._repository = finder.repository
        self._decoder = BlobDecoder()
        self._room = _Room()
        self._copy = memoryview(b"")

    def read(self, blob_id: bytes) -> Buffer:
        """The chunk, from whichever copy can be read; good until the next call.

        Raises `DamagedError` where none can.
        """
        failure: DamagedError | None = None
        for location in self.finder.copies(blob_id, plain=not self._bases):
            try:
                return self._read_at(location)
            except DamagedError as error:
                failure = failure or error
        assert failure is not None
        raise failure

    def _read_at(self, location: Location) -> Buffer:
        try:
            return self.open(location.record, self.read_span(alone(location)))
        except DamagedError:
            warm = self.finder.warm
            if warm is None or not warm.drop(location.pack_id):
                raise
        # What is held may be from before a repair.
        return self.open(location.record, self.read_span(alone(location)))

    def read_span(self, span: Span) -> memoryview:
        """The sealed bytes of a span; good until the next call.

        Raises `DamagedError`, as `ColdError` where the pack must be thawed first.
        """
        name = pack_name(span.pack_id)
        if span.pack_id in self.finder.cold:
            raise ColdError(f"{name} is in an archive class and not thawed")
        try:
            return self._planned(span) or self._read_now(name, span)
        except ColdError:
            self.finder.cold.add(span.pack_id)
            raise
        except ObjectMissingError:
            raise DamagedError(f"{name} is missing from {self._repository.name}") from None
        except TargetUnreachableError:
            raise
        except TargetError as error:
            # Cut short, or not to be read: what lies elsewhere is given all the same.
            raise DamagedError(f"{name} cannot be read: {error.message}") from None

    def _planned(self, span: Span) -> memoryview | None:
        planned = self.finder.planned
        if planned is None:
            return None
        return planned.read(span.pack_id, span.offset, span.size_bytes)

    def _read_now(self, name: str, span: Span) -> memoryview:
        room = self._room
        if len(room.sealed) < span.size_bytes:
            room.sealed = kept_buffer(span.size_bytes)
        sealed = room.sealed[: span.size_bytes]
        if not self._read_warm(span, sealed):
            self._repository.target.read_into(name, span.offset, sealed)
        return sealed

    def _read_warm(self, span: Span, sealed: memoryview) -> bool:
        """Fill `sealed` with what is no data, from what is held of a far target or read with it."""
        warm = self.finder.warm
        if warm is None or any(record.kind == BlobKind.DATA for record in span.records):
            return False
        return warm.read_into(span.pack_id, span.offset, sealed)

    def open(self, record: BlobRecord, sealed: memoryview) -> Buffer:
        """The chunk of a blob's sealed bytes, verified; good until the next call.

        Raises `DamagedError`, as `BaseLostError` where only the base cannot be read.
        """
        room = self._room
        if len(room.opened) < record.sealed_size:
            room.opened = kept_buffer(record.sealed_size)
        try:
            size = self._repository.sealer.open_into(sealed, record.blob_id, room.opened)
            base = self._read_base if self._bases else None
            plain = self._decoder.decode(room.opened[:size], record.plain_size, base)
        except (BaseLostError, ColdError):
            raise
        except DamagedError as error:
            raise DamagedError(f"blob {record.blob_id.hex()} is damaged: {error}") from None
        if self._repository.secrets.blob_id(plain) != record.blob_id:
            raise DamagedError(
                f"blob {record.blob_id.hex()} is damaged: its content has another id"
            )
        return plain

    def hold_base(self, base_id: bytes) -> Buffer:
        """A base's chunk, at hand until another base is needed. Raises `BaseLostError`.

        For what is read next and stands on it; what an earlier call gave is not good any more.
        """
        base_reader = self._reader_of_bases()
        own, base_reader._room = base_reader._room, self._room
        try:
            chunk = self._read_base(base_id)
        finally:
            base_reader._room = own
        if isinstance(chunk, memoryview) and chunk.obj is self._room.opened.obj:
            # A raw blob is its own chunk, and lies where the next blob is opened.
            if len(self._copy) < len(chunk):
                self._copy = kept_buffer(len(chunk))
            copy = self._copy[: len(chunk)]
            copy[:] = chunk
            chunk = self._held_base = copy
        return chunk

    def _read_base(self, base_id: bytes) -> Buffer:
        if self._held_base is not None and self._held_id == base_id:
            return self._held_base
        self._held_base = None
        try:
            held = self._reader_of_bases().read(base_id)
        except DamagedError as error:
            raise BaseLostError(base_id, error.message) from None
        self._held_id, self._held_base = base_id, held
        return held

    def _reader_of_bases(self) -> BlobReader:
        if self._base_reader is None:
            self._base_reader = BlobReader(self.finder, bases=False)
        return self._base_reader


class _Room:
    """Where one blob at a time lies, sealed and opened."""

    __slots__ = ("opened", "sealed")

    def __init__(self) -> None:
        self.sealed = memoryview(b"")
        self.opened = memoryview(b"")


def kept_buffer(least: int) -> memoryview:
    """A buffer of at least so many bytes, in whole mebibytes so that it seldom has to grow.

    An anonymous mapping: it takes memory only as it is touched, and gives it back when it goes.
    """
    return memoryview(mmap.mmap(-1, (least + MIB - 1) // MIB * MIB))
