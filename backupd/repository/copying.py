"""Copying sealed blobs to packs of other names, and indexing those. Nothing is opened here but
tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from blake3 import blake3

from backupd.codec.sealing import seal
from backupd.errors import BackupdError, DamagedError, ObjectMissingError
from backupd.repository.index import ASSOCIATED, PackTable, index_bytes
from backupd.repository.layout import INDEX, pack_name
from backupd.repository.pack import PackBuilder, read_table
from backupd.repository.records import BlobRecord, parse_table
from backupd.repository.repository import Repository


class StaleIndexError(BackupdError):
    """Packs that the snapshot relies on are gone; with a fresh index it will succeed."""


def put_index(repository: Repository, packs: list[PackTable]) -> str:
    """Store an index object of the packs; its name."""
    stored = seal(repository.sealer, index_bytes(packs), ASSOCIATED)
    name = INDEX + blake3(stored).hexdigest()
    repository.target.put(name, [stored])
    return name


def copy_packs(repository: Repository, pack_ids: set[bytes]) -> None:
    """Store all blobs of the packs once more, in packs of other names, and index those."""

    def blobs() -> Iterator[tuple[bytes, BlobRecord]]:
        for pack_id in sorted(pack_ids):
            name = pack_name(pack_id)
            info = repository.target.stat(name)
            if info is None:
                raise StaleIndexError(
                    f"{name} on {repository.name} was deleted while the snapshot relied on it",
                    hint="take the snapshot again; what is stored already is not stored twice",
                )
            table = read_table(repository.target, pack_id, info.size_bytes, repository.sealer)
            for record in parse_table(memoryview(table), info.size_bytes):
                yield pack_id, record

    try:
        copy_blobs(repository, blobs())
    except ObjectMissingError as error:
        raise StaleIndexError(error.message) from None


def copy_blobs(
    repository: Repository,
    blobs: Iterable[tuple[bytes, BlobRecord]],
    *,
    advance: Callable[[int], None] = lambda done_bytes: None,
    checkpoint: Callable[[], None] = lambda: None,
) -> list[PackTable]:
    """Copy sealed blobs, each given with its pack's id, to new packs, and index those.

    `checkpoint` is called between packs and may raise. Raises `ObjectMissingError`.
    """
    builder = PackBuilder(repository.sealer)
    scratch = memoryview(bytearray(0))
    tables: list[PackTable] = []
    for pack_id, record in blobs:
        if builder.full or not builder.has_room(record.sealed_size):
            tables.append(_put_now(repository, builder))
            checkpoint()
        space = builder.space(record.sealed_size)
        if len(scratch) < record.sealed_size:
            scratch = memoryview(bytearray(record.sealed_size))
        for _ in range(2):
            repository.target.read_into(pack_name(pack_id), record.offset, space)
            try:
                repository.sealer.open_into(space, record.blob_id, scratch)
                break
            except DamagedError:
                # Damaged on its way here, or where it lies: then the copy is no worse, and
                # check finds it there. The original of a good copy is deleted, so look twice.
                continue
        builder.add_copied(record)
        advance(record.sealed_size)
    if builder.count:
        tables.append(_put_now(repository, builder))
    if tables:
        put_index(repository, tables)
    return tables


def _put_now(repository: Repository, builder: PackBuilder) -> PackTable:
    pack = builder.finish()
    repository.target.put(pack_name(pack.pack_id), [pack.data])
    table = PackTable(pack.pack_id, len(pack.data), pack.table)
    builder.reset()
    return table
