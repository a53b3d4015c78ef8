"""What a writer and a prune find out before anything is listed or deleted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backupd.codec.chunking_parameters import ChunkingParameters
from backupd.codec.secrets import PUBLIC_MASTER_KEY
from backupd.errors import DamagedError, ObjectMissingError
from backupd.repository import layout
from backupd.repository.copying import copy_blobs
from backupd.repository.descriptor import Descriptor
from backupd.repository.index import Index
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.records import BlobKind, parse_table
from backupd.repository.repository import Repository
from backupd.repository.snapshots import SnapshotName, SnapshotRecord
from backupd.repository.tombstones import encode_tombstone
from backupd.repository.tree import ChunkRef, FileType, Metadata, TreeEntry
from backupd.repository.tree_codec import encode_entry
from backupd.repository.usage import Usage
from backupd.repository.writer import StaleIndexError, Writer
from backupd.targets.memory import MemoryTarget

NOW = 1000.0


def no_note(message: str) -> None:
    raise AssertionError(message)


class World:
    """A repository in memory with a snapshot of one file in it."""

    def __init__(self, target: MemoryTarget | None = None) -> None:
        self.target = target or MemoryTarget(clock=lambda: NOW)
        descriptor = Descriptor("0" * 32, False, ChunkingParameters())
        self.repository = Repository(self.target, descriptor, PUBLIC_MASTER_KEY, os.urandom)

    def writer(self) -> Writer:
        index = self.repository.load_index(no_note)
        return Writer(self.repository, index, clock=lambda: NOW, workers=1, note=no_note)

    def store(self, content: bytes) -> SnapshotRecord:
        writer = self.writer()
        stream = writer.stream()
        blob_id = stream.store_bytes(BlobKind.DATA, content)
        line = tree_line(blob_id, len(content))
        tree = stream.store_bytes(BlobKind.TREE, line)
        stream.close()
        writer.finish()
        return writer.commit(SnapshotRecord("box", "m", 0, NOW, b"/m", (tree,)))

    def name(self, record: SnapshotRecord) -> SnapshotName:
        return SnapshotName(
            self.repository.secrets.model_folder(record.host, record.model), record.version
        )

    def packs(self) -> list[str]:
        return [info.name for info in self.target.list(layout.PACKS)]

    def pack_of(self, content: bytes) -> str:
        place = self.repository.load_index(no_note).find(self.repository.secrets.blob_id(content))
        assert place is not None
        return layout.pack_name(place.pack_id)

    def drop(self, *folders: str) -> None:
        for folder in folders:
            for info in list(self.target.list(folder)):
                self.target.delete(info.name)


def tree_line(blob_id: bytes, size: int) -> bytes:
    refs = (ChunkRef(blob_id, size),)
    return encode_entry(
        TreeEntry(b"f", FileType.FILE, Metadata(0o100644, 0, 0, 0, 0, 0, 0, size), chunks=refs)
    )


def keeping(world: World, parent: SnapshotRecord, writer: Writer) -> SnapshotRecord:
    """A next snapshot that keeps all of its parent unlooked at."""
    writer.finish()
    return SnapshotRecord("box", "m", 0, NOW, b"/m", parent.trees, parent=parent.version)


def test_a_snapshot_that_keeps_its_parents_entries_is_listed_while_the_parent_is() -> None:
    world = World()
    first = world.store(b"kept")
    writer = world.writer()
    second = writer.commit(keeping(world, first, writer))
    assert second.version == first.version + 1


def test_what_the_parent_had_is_missed_when_parent_and_packs_went_meanwhile() -> None:
    world = World()
    first = world.store(b"kept")
    world.repository.forget(world.name(first))
    world.drop(layout.INDEX, layout.PACKS)  # as a prune that had marked them long ago
    writer = world.writer()
    with pytest.raises(StaleIndexError):
        writer.commit(keeping(world, first, writer))
    assert not world.repository.list_snapshots().snapshots


def test_what_the_parent_had_is_missed_also_when_the_index_was_read_before() -> None:
    world = World()
    first = world.store(b"kept")
    writer = world.writer()
    world.repository.forget(world.name(first))
    world.drop(layout.INDEX, layout.PACKS)
    with pytest.raises(StaleIndexError):
        writer.commit(keeping(world, first, writer))


def test_a_forgotten_parent_whose_packs_are_there_costs_nothing() -> None:
    world = World()
    first = world.store(b"kept")
    before = world.packs()
    world.repository.forget(world.name(first))
    writer = world.writer()
    writer.commit(keeping(world, first, writer))
    assert world.packs() == before


def test_what_is_marked_when_a_snapshot_is_listed_was_copied_out() -> None:
    world = World()
    first = world.store(b"kept")
    marked = world.packs()
    writer = world.writer()
    packs = [bytes.fromhex(pack[-64:]) for pack in marked]
    name, stored = encode_tombstone(NOW, packs, world.repository.sealer)
    world.target.put(name, [stored])
    second = writer.commit(keeping(world, first, writer))
    for pack in marked:
        world.target.delete(pack)
    world.drop(layout.INDEX)
    reader = BlobReader(BlobFinder(world.repository, Index(), lambda message: None))
    assert [bytes(reader.read(tree)) for tree in second.trees]


def test_data_lies_in_other_packs_than_what_is_read_to_find_it() -> None:
    world = World()
    world.store(b"content")
    repository = world.repository
    index = repository.load_index(no_note)
    kinds = [
        {record.kind for record in parse_table(memoryview(table.table), table.size_bytes)}
        for table in index.tables()
    ]
    assert sorted(kinds, key=min) == [{BlobKind.DATA}, {BlobKind.TREE}]
    copied = copy_blobs(
        repository,
        (
            (pack.pack_id, record)
            for pack in index.tables()
            for record in parse_table(memoryview(pack.table), pack.size_bytes)
        ),
    )
    assert len(copied) == 2


def test_a_store_that_swaps_blobs_is_noticed() -> None:
    world = World()
    world.store(b"first content")
    index = world.repository.load_index(no_note)
    reader = BlobReader(BlobFinder(world.repository, index, no_note))
    secrets = world.repository.secrets
    place = index.find(secrets.blob_id(b"first content"))
    assert place is not None
    pack = layout.pack_name(place.pack_id)
    content = bytearray(world.target.get(pack, 1 << 20))
    world.target.put(pack, [content[: place.record.offset] + bytes(place.record.sealed_size)])
    with pytest.raises(DamagedError):
        reader.read(secrets.blob_id(b"first content"))


def test_a_store_that_moves_a_snapshot_to_another_number_or_model_is_noticed() -> None:
    world = World()
    first = world.store(b"content")
    name = world.name(first)
    stored = world.target.get(name.object_name(), 1 << 20)
    for other in (SnapshotName(name.folder, 9), SnapshotName("0" * 32, 1)):
        world.target.put(other.object_name(), [stored])
        listing = world.repository.list_snapshots(other.folder)
        assert other.object_name() in listing.damaged
        world.target.delete(other.object_name())


class RewrittenTombstones(MemoryTarget):
    """A store on which a prune writes a tombstone anew between listing and reading it."""

    rewritten: tuple[str, str, bytes] | None = None

    def get(self, name: str, max_bytes: int) -> bytes:
        if self.rewritten and name == self.rewritten[0]:
            old, new, stored = self.rewritten
            self.rewritten = None
            self.put(new, [stored])
            self.delete(old)
        return super().get(name, max_bytes)


def test_a_tombstone_that_is_written_anew_meanwhile_is_not_overlooked() -> None:
    target = RewrittenTombstones()
    world = World(target)
    old = encode_tombstone(NOW, [bytes(32), b"x" * 32], world.repository.sealer)
    new = encode_tombstone(NOW, [bytes(32)], world.repository.sealer)
    target.put(old[0], [old[1]])
    target.rewritten = (old[0], *new)
    (stone,) = world.repository.read_tombstones(no_note)
    assert stone.packs == {bytes(32)}
    with pytest.raises(ObjectMissingError):
        target.get(old[0], 1 << 20)


def test_a_copy_in_a_pack_that_is_there_counts_before_one_that_only_the_index_names() -> None:
    world = World()
    world.store(b"content")
    lost = world.pack_of(b"content")
    other = World()
    other.store(b"content")
    there = other.pack_of(b"content")
    world.target.put(there, [other.target.get(there, 1 << 20)])
    world.target.delete(lost)
    index, _ = world.repository.read_index_objects()
    world.repository.recover_index(index, no_note)
    for marked in ([], [bytes.fromhex(there[-64:])]):
        usage = Usage(index, marked, absent=[bytes.fromhex(lost[-64:])])
        usage.add(world.repository.secrets.blob_id(b"content"))
        used = {pack.pack_id.hex() for pack in usage.packs() if pack.used_count}
        assert used == {there[-64:]}


def test_a_damaged_blob_is_not_handed_to_another_target() -> None:
    world = World()
    writer = world.writer()
    stream = writer.stream()
    blob_id = stream.store_bytes(BlobKind.DATA, b"content")
    stream.close()
    writer.finish()
    place = writer.index.find(blob_id)
    assert place is not None
    sealed = bytearray(place.record.sealed_size)
    world.target.read_into(layout.pack_name(place.pack_id), place.record.offset, memoryview(sealed))
    elsewhere = World().writer().stream()
    elsewhere.copy(place.record, memoryview(sealed))
    sealed[20] ^= 1
    with pytest.raises(DamagedError):
        elsewhere.copy(place.record, memoryview(sealed))


def test_the_documentation_names_every_kind_of_object() -> None:
    text = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    for folder in (layout.KEYS, layout.PACKS, layout.INDEX, layout.SNAPSHOTS, layout.TOMBSTONES):
        assert f"`{folder}" in text
    for kind in BlobKind:
        assert f"{kind.value} {kind.name.lower().replace('_', ' ')}" in text
