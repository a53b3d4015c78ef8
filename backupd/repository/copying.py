"""Copying sealed blobs to packs of other names, and indexing those. Nothing is opened here but
tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from blake3 import blake3

from backupd.codec.sealing import seal
from backupd.errors import (
    BackupdError,
    DamagedError,
    ObjectMissingError,
    TargetError,
    TargetUnreachableError,
)
from backupd.repository.index import Location
from backupd.repository.index_object import ASSOCIATED, PackTable, index_bytes
from backupd.repository.layout import INDEX, pack_name
from backupd.repository.pack import PackBuilder, read_table
from backupd.repository.reader import kept_buffer
from backupd.repository.records import MAX_SEALED, BlobKind, BlobRecord, parse_table
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
    copies: Callable[[bytes], Iterable[Location]] = lambda blob_id: (),
    advance: Callable[[int], None] = lambda done_bytes: None,
    checkpoint: Callable[[], None] = lambda: None,
) -> list[PackTable]:
    """Copy sealed blobs, each given with its pack's id, to new packs, and index those.

    `copies` says where else a blob lies, for one that is damaged. `checkpoint` is called between
    packs and may raise. Raises `ObjectMissingError`.
    """
    builders: dict[bool, PackBuilder] = {}
    scratch = memoryview(bytearray(0))
    tables: list[PackTable] = []
    for pack_id, record in blobs:
        warm = record.kind != BlobKind.DATA
        builder = builders.get(warm)
        if builder is None:
            builder = builders[warm] = PackBuilder(repository.sealer, warm=warm)
        if builder.full or not builder.has_room(record.sealed_size):
            tables.append(_put_now(repository, builder))
            checkpoint()
        if len(scratch) < MAX_SEALED:
            scratch = kept_buffer(MAX_SEALED)
        record = _copy_one(repository, builder, pack_id, record, copies, scratch)
        builder.add_copied(record)
        advance(record.sealed_size)
    tables += [_put_now(repository, builder) for builder in builders.values() if builder.count]
    if tables:
        put_index(repository, tables)
    return tables


def _copy_one(
    repository: Repository,
    builder: PackBuilder,
    pack_id: bytes,
    record: BlobRecord,
    copies: Callable[[bytes], Iterable[Location]],
    scratch: memoryview,
) -> BlobRecord:
    """Read a blob into the pack, from another copy where this one is damaged; its record.

    The original of a good copy is deleted, so a damaged one is looked at twice. Where no other
    copy can be read either, the damaged bytes are copied: so nothing is worse than it was, and
    check finds them where they lie.
    """
    given = Location(pack_id, record)
    for copy in chain((given, given), _like(record, copies)):
        if not builder.has_room(copy.record.sealed_size):
            continue
        space = builder.space(copy.record.sealed_size)
        try:
            repository.target.read_into(pack_name(copy.pack_id), copy.record.offset, space)
            repository.sealer.open_into(space, record.blob_id, scratch)
        except TargetUnreachableError:
            raise
        except (DamagedError, TargetError):
            continue
        return copy.record
    space = builder.space(record.sealed_size)
    repository.target.read_into(pack_name(pack_id), record.offset, space)
    return record


def _like(record: BlobRecord, copies: Callable[[bytes], Iterable[Location]]) -> Iterator[Location]:
    """Other copies that can stand for this one: plain, or on the same base."""
    for copy in copies(record.blob_id):
        if copy.record.base_id in (b"", record.base_id):
            yield copy


def _put_now(repository: Repository, builder: PackBuilder) -> PackTable:
    pack = builder.finish()
    repository.target.put(pack_name(pack.pack_id), [pack.data], warm=builder.warm)
    table = PackTable(pack.pack_id, len(pack.data), pack.table)
    builder.reset()
    return table
