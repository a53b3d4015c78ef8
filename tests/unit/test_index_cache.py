"""A cached index never says anything but what the target holds."""

from __future__ import annotations

import fcntl
import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from backupd.codec.chunking_parameters import ChunkingParameters
from backupd.codec.secrets import PUBLIC_MASTER_KEY
from backupd.config.settings import KeySettings, LocalTarget, Settings
from backupd.operations.index_cache import StateIndexCache
from backupd.operations.installation import open_installation, open_standalone
from backupd.operations.setup import initialise
from backupd.repository.descriptor import Descriptor
from backupd.repository.index import Index
from backupd.repository.index_object import PackTable
from backupd.repository.reader import BlobFinder
from backupd.repository.records import BlobRecord, table_bytes
from backupd.repository.repository import Repository
from backupd.repository.writer import put_index
from backupd.targets.memory import MemoryTarget


class CountingTarget(MemoryTarget):
    """Counts which objects are read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()

    def get(self, name: str, max_bytes: int) -> bytes:
        self.reads[name] += 1
        return super().get(name, max_bytes)


class House:
    """A repository in memory with a cache, and the packs that its index names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.target = CountingTarget()
        self.random = random.Random(1)
        self.notes: list[str] = []

    @property
    def file(self) -> Path:
        return self.folder / "index"

    def repository(self) -> Repository:
        """Opened anew, as by another process."""
        descriptor = Descriptor("ab" * 16, False, ChunkingParameters())
        return Repository(
            self.target,
            descriptor,
            PUBLIC_MASTER_KEY,
            self.random.randbytes,
            index_cache=StateIndexCache(self.folder),
        )

    def load(self) -> Index:
        self.target.reads.clear()
        self.notes.clear()
        return self.repository().load_index(self.notes.append)

    def add_index(self, packs: int = 4) -> tuple[str, list[PackTable]]:
        tables = []
        for _ in range(packs):
            records = [
                BlobRecord(self.random.randbytes(32), at * 50, 50, 9, 0, 1) for at in range(5)
            ]
            rows = b"".join(record.pack() for record in records)
            tables.append(PackTable(self.random.randbytes(32), 300, table_bytes(5, rows, b"")))
        return put_index(self.repository(), tables), tables


def ids(tables: Sequence[PackTable]) -> list[bytes]:
    return [
        bytes(table.table[at : at + 32])
        for table in tables
        for at in range(4, len(table.table), 48)
    ]


def assert_holds(index: Index, tables: Sequence[PackTable]) -> None:
    for table in tables:
        for blob_id in ids([table]):
            location = index.find(blob_id)
            assert location is not None
            assert location.pack_id == table.pack_id
            assert location.record.blob_id == blob_id
    assert index.packs == {table.pack_id: table.size_bytes for table in tables}


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setattr("backupd.operations.index_cache._WORTH_BLOBS", 15)
    return House(tmp_path / "cache")


def test_index_objects_are_read_once_and_new_ones_are_read_on_top(house: House) -> None:
    first, tables = house.add_index()
    assert_holds(house.load(), tables)
    assert house.target.reads[first] == 1
    assert_holds(house.load(), tables)
    assert not house.target.reads
    second, more = house.add_index(1)
    for _ in range(2):
        # Too little to write the file anew for.
        assert_holds(house.load(), [*tables, *more])
        assert set(house.target.reads) == {second}
    third, last = house.add_index(3)
    assert_holds(house.load(), [*tables, *more, *last])
    assert set(house.target.reads) == {second, third}
    assert_holds(house.load(), [*tables, *more, *last])
    assert not house.target.reads


def test_an_index_that_prune_wrote_anew_is_read_anew_and_knows_no_pack_that_went(
    house: House,
) -> None:
    first, tables = house.add_index()
    second, more = house.add_index()
    house.load()
    third = put_index(house.repository(), [*tables[1:], *more])
    house.target.delete(first)
    house.target.delete(second)
    index = house.load()
    assert set(house.target.reads) == {third}
    assert_holds(index, [*tables[1:], *more])
    assert not index.has_pack(tables[0].pack_id)
    assert all(blob_id not in index for blob_id in ids(tables[:1]))
    assert_holds(house.load(), [*tables[1:], *more])
    assert not house.target.reads


def test_what_was_kept_goes_with_the_index_it_was_made_from(house: House) -> None:
    first, _ = house.add_index()
    house.load()
    assert house.file.exists()
    house.target.delete(first)
    _, tables = house.add_index(1)
    assert_holds(house.load(), tables)
    assert not house.file.exists()


@pytest.mark.parametrize("harm", ["deleted", "empty", "cut", "grown", "head", "other", "folder"])
def test_a_file_that_is_not_whole_costs_only_time(house: House, harm: str) -> None:
    _, tables = house.add_index()
    house.load()
    raw = house.file.read_bytes()
    house.file.unlink()
    if harm == "folder":
        house.file.mkdir()
    elif harm != "deleted":
        changed = {
            "empty": b"",
            "cut": raw[:-1],
            "grown": raw + b"x",
            "head": raw[:40] + bytes([raw[40] ^ 1]) + raw[41:],
            "other": b"something else\n" * 4000,
        }
        house.file.write_bytes(changed[harm])
    assert_holds(house.load(), tables)
    if harm != "folder":
        assert house.file.read_bytes() == raw


def test_a_row_that_is_wrong_is_found_by_the_look_up_and_the_target_is_read(house: House) -> None:
    name, tables = house.add_index()
    house.load()
    raw = bytearray(house.file.read_bytes())
    wanted = ids(tables)[7]
    at = raw.index(wanted[8:])
    raw[at + 24] ^= 1  # the number of its pack
    house.file.write_bytes(raw)
    index = house.load()
    fresh = PackTable(b"f" * 32, 300, tables[0].table)
    index.add_fresh(fresh)
    later = house.add_index(1)[1]
    index.add_table(later[0])
    assert not house.target.reads
    found = index.find(wanted)
    assert found is not None
    assert found.pack_id == tables[1].pack_id
    assert house.target.reads[name] == 1
    assert len(house.notes) == 1
    # What was added on top is there still, and the wrong file is not.
    assert index.has_pack(b"f" * 32)
    assert all(blob_id in index for blob_id in ids(later))
    assert not house.file.exists()


def test_a_wrong_row_is_not_carried_over_into_the_next_file(house: House) -> None:
    _, tables = house.add_index()
    house.load()
    raw = bytearray(house.file.read_bytes())
    raw[raw.index(ids(tables)[7][8:]) + 24] ^= 1
    house.file.write_bytes(raw)
    _, more = house.add_index()
    assert_holds(house.load(), [*tables, *more])
    assert_holds(house.load(), [*tables, *more])


def test_a_blob_that_a_wrong_key_hides_is_looked_for_on_the_target(house: House) -> None:
    name, tables = house.add_index()
    house.load()
    wanted = ids(tables)[7]
    raw = bytearray(house.file.read_bytes())
    raw[raw.index(wanted[:8][::-1])] ^= 1
    house.file.write_bytes(raw)
    repository = house.repository()
    house.target.reads.clear()
    index = repository.load_index(house.notes.append)
    assert index.find(wanted) is None
    found = BlobFinder(repository, index, house.notes.append).find(wanted)
    assert found.record.blob_id == wanted
    assert house.target.reads[name] == 1


def test_a_damaged_index_object_is_not_kept_as_if_it_had_been_read(house: House) -> None:
    _, tables = house.add_index()
    damaged, _ = house.add_index()
    stored = house.target.get(damaged, 1 << 20)
    house.target.put(damaged, [stored[:-1]])
    assert_holds(house.load(), tables)
    assert not house.file.exists()
    assert any("damaged" in note for note in house.notes)


def test_two_processes_that_keep_at_once_leave_one_sound_file(house: House) -> None:
    _, tables = house.add_index()
    house.folder.mkdir()
    temporary = house.folder / "index.tmp"
    with open(os.open(temporary, os.O_RDWR | os.O_CREAT), "r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert_holds(house.load(), tables)
        assert not house.file.exists()
    # What a killed process left of its file is written over.
    temporary.write_bytes(b"x" * 1_000_000)
    assert_holds(house.load(), tables)
    assert house.file.exists()
    assert not temporary.exists()
    assert_holds(house.load(), tables)
    assert not house.target.reads


def test_a_state_folder_that_cannot_be_written_costs_only_time(house: House) -> None:
    house.folder.write_text("not a folder")
    _, tables = house.add_index()
    for _ in range(2):
        assert_holds(house.load(), tables)


def test_an_installation_keeps_an_index_below_its_state_and_a_standalone_one_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backupd.operations.index_cache._WORTH_BLOBS", 1)
    settings = Settings(
        source=tmp_path / "backupd.yaml",
        state_dir=tmp_path / "state",
        host="box",
        key=KeySettings(file=tmp_path / "key"),
        targets={"disk": LocalTarget("disk", tmp_path / "repository")},
        policies={},
        models={},
    )
    with open_installation(settings, environment={}) as installation:
        initialise(installation)
        repository = installation.repository("disk")
        table = PackTable(
            b"p" * 32, 300, table_bytes(1, BlobRecord(b"b" * 32, 0, 50, 9, 0, 1).pack(), b"")
        )
        put_index(repository, [table])
        repository.load_index(lambda message: None)
        repository_id = repository.descriptor.repository_id
    kept = tmp_path / "state/cache/index" / repository_id / "index"
    assert kept.exists()
    kept.unlink()
    environment = {"BACKUPD_KEY_FILE": str(tmp_path / "key")}
    with open_standalone(str(tmp_path / "repository"), environment=environment) as alone:
        monkeypatch.chdir(tmp_path)
        name = next(iter(alone.settings.targets))
        assert b"b" * 32 in alone.repository(name).load_index(lambda message: None)
    assert [path for path in tmp_path.rglob("cache/*/*") if path.name == "index"] == []
