"""Mending packs: put back under their names, or what can be had of them stored anew.

Nothing is marked or dropped before all that stands in for it was put, read back and verified.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from backupd.codec.blob import framed
from backupd.errors import (
    BackupdError,
    ColdError,
    DamagedError,
    StoppedError,
    TargetError,
    TargetFullError,
    TargetUnreachableError,
)
from backupd.operations.check_data import read_these
from backupd.operations.diagnosis import Diagnosis, Wound
from backupd.operations.repair_sources import Sources
from backupd.repository.copying import put_index
from backupd.repository.index import Location
from backupd.repository.layout import MAX_PACK, pack_name
from backupd.repository.read_order import Span
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.records import BlobKind, BlobRecord, parse_table
from backupd.repository.repository import Repository
from backupd.repository.tombstones import encode_tombstone
from backupd.repository.writer import Writer


class PackMender:
    """Mends the packs of one target; one thread at a time. A context manager.

    `found` is kept true to what was done: what is mended is not damaged in it any more.
    """

    def __init__(
        self,
        repository: Repository,
        found: Diagnosis,
        sources: Sources,
        *,
        clock: Callable[[], float],
        stop: threading.Event,
    ) -> None:
        self._repository = repository
        self._found = found
        self._sources = sources
        self._clock = clock
        self._stop = stop
        self._before = frozenset(found.index.packs)
        wanted = found.hurt_packs | found.unnamed
        self._tables = {
            pack.pack_id: pack
            for pack in (found.index.tables() if wanted else ())
            if pack.pack_id in wanted
        }
        self._reader = BlobReader(BlobFinder(repository, found.index, lambda message: None))
        self._writer = Writer(repository, found.index, clock=clock, workers=1, stop=stop)
        self._stream = self._writer.stream()
        self._stored: set[bytes] = set()

    # -- under the same name ----------------------------------------------------------------------

    def replace(self, pack_id: bytes) -> str:
        """Put a pack's own bytes back from another target; from which, empty where none has it.

        Raises what this target raises, except where it refuses to have an object replaced.
        """
        name = pack_name(pack_id)
        for donor in self._sources.donors:
            try:
                stored, warm = donor.pack(pack_id)
            except BackupdError:
                continue
            try:
                self._repository.target.put(name, [stored], warm=warm)
            except (TargetUnreachableError, TargetFullError):
                raise
            except TargetError:
                return ""  # credentials that may only add: new packs will do
            if not self._is_read_back(name, stored):
                raise self._faithless(f"{name} was put back, and is read differently")
            self._forget_damage(pack_id, len(stored))
            return donor.name
        return ""

    def _is_read_back(self, name: str, stored: bytes) -> bool:
        """Whether the object is read as it was put; also where its class is one that is not read
        at all before it is thawed: then the store's word has to do."""
        back = bytearray(len(stored))
        try:
            self._repository.target.read_into(name, 0, memoryview(back))
        except ColdError:
            return True
        return back == stored

    def _forget_damage(self, pack_id: bytes, size_bytes: int) -> None:
        found = self._found
        found.present[pack_id] = size_bytes
        found.bad_packs.pop(pack_id, None)
        found.misnamed.pop(pack_id, None)
        for key in [key for key in found.bad_blobs if key[0] == pack_id]:
            del found.bad_blobs[key]

    # -- in new packs -----------------------------------------------------------------------------

    def store(self, wound: Wound) -> str | None:
        """Store a needed blob anew, plain; whence it came, None where it was not to be had.

        Empty where nothing had to be done, as its pack or its base was mended before.
        """
        self._checkpoint()
        if wound.blob_id in self._stored or self._found.lasts(wound.blob_id, plain=wound.plain):
            return ""
        got = self._sources.read(wound)
        if got is None:
            return None
        plain, whence = got
        self._keep(wound.blob_id, wound.kind, bytes(plain))
        return whence

    def salvage(self, pack_id: bytes) -> bool:
        """Store anew what can be read of a pack that is to go, whether it is needed or not.

        Whether nothing that is needed is left in it alone.
        """
        self._found.dying.add(pack_id)
        records = self._records(pack_id)
        kept = False
        try:
            held = self._held(pack_id)
        except ColdError:
            self._found.dying.discard(pack_id)
            return False
        for record in records:
            self._checkpoint()
            if record.blob_id in self._stored or self._found.lasts(record.blob_id):
                continue
            begin, end = record.offset, record.offset + record.sealed_size
            try:
                if end > len(held):
                    raise DamagedError("the pack was cut short")
                chunk = self._reader.open(record, held[begin:end])
            except DamagedError as error:
                # Of what cannot be read though nothing is wrong with it, this is the copy.
                known = self._found.bad_copy(Location(pack_id, record)) is not None
                kept = kept or not known or isinstance(error, ColdError)
                continue
            self._keep(record.blob_id, BlobKind(record.kind), bytes(chunk))
        lost = (wound.blob_id for wound in self._found.wounds.values())
        unmended = {blob_id for blob_id in lost if not self._is_mended(blob_id)}
        kept = kept or not unmended.isdisjoint(record.blob_id for record in records)
        if kept:
            self._found.dying.discard(pack_id)
        return not kept

    def _is_mended(self, blob_id: bytes) -> bool:
        return blob_id in self._stored or self._found.lasts(blob_id)

    def _records(self, pack_id: bytes) -> list[BlobRecord]:
        pack = self._tables.get(pack_id)
        if pack is None:
            return []  # neither an index nor its own table says what it held
        return list(parse_table(memoryview(pack.table), pack.size_bytes))

    def _held(self, pack_id: bytes) -> memoryview:
        """What is there of a pack, to be believed in nothing; good until the next is read."""
        size = self._found.present.get(pack_id, 0)
        if not 0 < size <= MAX_PACK:
            return memoryview(b"")
        try:
            return memoryview(bytes(self._reader.read_span(Span(pack_id, 0, size, ()))))
        except ColdError:
            raise
        except DamagedError:
            return memoryview(b"")

    def _keep(self, blob_id: bytes, kind: BlobKind, plain: bytes) -> None:
        self._stream.store(blob_id, kind, framed(plain), len(plain))
        self._stored.add(blob_id)

    def _checkpoint(self) -> None:
        if self._stop.is_set():
            raise StoppedError("stopped; what was mended is kept, and the next repair goes on")

    # -- the end ----------------------------------------------------------------------------------

    def settle(self) -> int:
        """Put and index what was stored, and read it back; how many packs.

        Raises `DamagedError` where it is not read as it was written.
        """
        self._stream.close()
        self._writer.finish()
        new = self._found.index.packs.keys() - self._before
        for pack_id in new:
            self._found.present[pack_id] = self._found.index.packs[pack_id]
        trial = Diagnosis(self._repository.name)
        trial.index, trial.present = self._found.index, self._found.present
        read_these(self._repository, trial, sorted(new))
        if trial.findings:
            raise self._faithless(trial.findings[0].problem)
        return len(new)

    def _faithless(self, why: str) -> DamagedError:
        return DamagedError(
            f"{self._repository.target.location} does not keep what it is given: {why}",
            hint="replace the disk or the store before anything else is kept there",
        )

    def abandon(self) -> None:
        """End after a failure; what was stored is indexed, for the next repair."""
        self._writer.abandon()

    def mark(self, packs: Iterable[bytes]) -> None:
        """Let prune delete these packs after the grace."""
        packs = frozenset(packs)
        if packs:
            name, stored = encode_tombstone(self._clock(), packs, self._repository.sealer)
            self._repository.target.put(name, [stored])
            self._found.index.avoid(packs)

    def index_unnamed(self) -> None:
        """Name the packs in an index object that none names."""
        tables = [self._tables[pack] for pack in sorted(self._found.unnamed & self._tables.keys())]
        if tables:
            put_index(self._repository, tables)
