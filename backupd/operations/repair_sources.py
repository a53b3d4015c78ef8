"""Where a repair may find what it needs: other copies here, other targets, the live folders."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property

from blake3 import blake3

from backupd.codec.blob import Buffer
from backupd.errors import BackupdError, DamagedError, ObjectMissingError
from backupd.operations.diagnosis import Diagnosis, Wound
from backupd.operations.live_folder import LiveFolders
from backupd.repository.index import Index
from backupd.repository.layout import pack_name
from backupd.repository.pack import read_table
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.records import BlobKind, parse_table
from backupd.repository.repair_plan import HERE, Offers
from backupd.repository.repository import Repository

LIVE = "the folder it was taken of"


class Donor:
    """Another target that shares the master key; its index is read when it is first asked."""

    def __init__(self, repository: Repository, note: Callable[[str], None]) -> None:
        self.repository = repository
        self._note = note

    @property
    def name(self) -> str:
        """The target's name."""
        return self.repository.name

    @cached_property
    def index(self) -> Index:
        """What it holds."""
        return self.repository.load_index(self._note)

    @cached_property
    def reader(self) -> BlobReader:
        """For one thread."""
        return BlobReader(BlobFinder(self.repository, self.index, self._note))

    def pack(self, pack_id: bytes) -> tuple[bytes, bool]:
        """A pack's bytes, verified whole and blob by blob, and whether it holds no data.

        Raises `DamagedError` where they are not what the name says, and `TargetError`.
        """
        target = self.repository.target
        name = pack_name(pack_id)
        info = target.stat(name)
        if info is None:
            raise ObjectMissingError(f"{name} is not on {self.name}")
        table = memoryview(read_table(target, pack_id, info.size_bytes, self.repository.sealer))
        stored = bytearray(info.size_bytes)
        view = memoryview(stored)
        target.read_into(name, 0, view)
        if blake3(stored).digest() != pack_id:
            raise DamagedError(f"{name} on {self.name} is damaged too")
        warm = True
        for record in parse_table(table, info.size_bytes):
            end = record.offset + record.sealed_size
            self.reader.open(record, view[record.offset : end])
            warm = warm and record.kind != BlobKind.DATA
        return bytes(stored), warm


class Sources:
    """All that a repair of one target may take from, nearest first."""

    def __init__(
        self, repository: Repository, found: Diagnosis, donors: Sequence[Donor], live: LiveFolders
    ) -> None:
        self.donors = donors
        self._live = live
        self._found = found
        finder = BlobFinder(repository, found.index, lambda message: None)
        self._own = BlobReader(finder)

    def offers(self, objects: Sequence[str], not_replaced: Collection[bytes]) -> Offers:
        """What may be had of all that is damaged, by looking only at lists and indexes.

        `not_replaced` are packs that were tried to be had in whole, in vain.
        """
        found = self._found
        return Offers(
            packs={
                pack: [d.name for d in self.donors if d.index.has_pack(pack)]
                for pack in found.hurt_packs - set(not_replaced)
            },
            blobs={wound.blob_id: self._who_has(wound) for wound in found.wounds.values()},
            objects={
                name: [d.name for d in self.donors if d.repository.target.stat(name) is not None]
                for name in objects
            },
        )

    def _who_has(self, wound: Wound) -> list[str]:
        blob_id = wound.blob_id
        copies = self._found.copies(blob_id, plain=False)
        names = [HERE] if any(self._found.bad_copy(copy) is None for copy in copies) else []
        names += [d.name for d in self.donors if d.index.find(blob_id, anywhere=True)]
        return [*names, LIVE] if self._live.may_have(wound) else names

    def read(self, wound: Wound) -> tuple[Buffer, str] | None:
        """The blob's bytes, verified, and whence; None where nobody has them any more."""
        readers = [(HERE, self._own), *((donor.name, donor.reader) for donor in self.donors)]
        for name, reader in readers:
            try:
                return reader.read(wound.blob_id), name
            except BackupdError:
                continue  # damaged or gone there too, or that target does not answer
        plain = self._live.read(wound)
        return None if plain is None else (plain, LIVE)
