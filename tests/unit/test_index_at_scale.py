"""What an index of many blobs takes and does, counted in bytes and rows, never in seconds."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.codec.sealing import OVERHEAD
from backupd.operations.index_cache import StateIndexCache
from backupd.repository.index import Index, first_to_merge
from backupd.repository.index_object import PackTable
from backupd.repository.index_segment import Segment
from backupd.repository.records import table_bytes

BLOBS = 200_000
A_PACK = 40
OBJECT = "index/" + "cd" * 32
_RECORD = struct.Struct("<32sIIIBBBB")


def tables(blobs: int, seed: int = 0) -> list[PackTable]:
    """Packs of forty blobs, every eighth of them a delta."""
    drawn = random.Random(seed)
    found = []
    for _ in range(blobs // A_PACK):
        rows, bases = [], []
        for at in range(A_PACK):
            delta = at % 8 == 7
            rows.append(
                _RECORD.pack(drawn.randbytes(32), at * 100, 100, 200, 0, 1 + 2 * delta, delta, 0)
            )
            bases.append(drawn.randbytes(32) if delta else b"")
        table = table_bytes(A_PACK, b"".join(rows), b"".join(bases))
        found.append(PackTable(drawn.randbytes(32), A_PACK * 100 + OVERHEAD, table))
    return found


@pytest.fixture(scope="module")
def many() -> list[PackTable]:
    return tables(BLOBS)


def ids(table: PackTable) -> Iterator[bytes]:
    for at in range(4, 4 + A_PACK * 48, 48):
        yield bytes(table.table[at : at + 32])


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many rows were sorted from tables, and how many were moved by merges."""
    counted = {"sorted": 0, "moved": 0}
    of_tables, merged = Segment.of_tables, Segment.merged

    def count_sorted(*given: object) -> Segment:
        segment = of_tables(*given)  # type: ignore[arg-type]
        counted["sorted"] += segment.count
        return segment

    def count_moved(segments: list[Segment]) -> Segment:
        segment = merged(segments)
        counted["moved"] += segment.count
        return segment

    monkeypatch.setattr(Segment, "of_tables", count_sorted)
    monkeypatch.setattr(Segment, "merged", count_moved)
    return counted


def test_a_blob_takes_no_more_than_sixty_bytes_and_its_base(many: list[PackTable]) -> None:
    tracemalloc.start()
    index = Index()
    for table in many:
        index.add_table(table)
    index.freeze()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    bases = BLOBS // 8 * 32
    packs = len(many) * 300
    assert len(index) == BLOBS
    assert taken - bases - packs < 60 * BLOBS


@pytest.mark.parametrize("batch", [1000, 4000])
def test_a_row_is_moved_no_more_often_than_the_index_doubles(
    many: list[PackTable], moved: dict[str, int], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backupd.repository.index._SORT_FRESH", batch)
    index = Index()
    for table in many:
        index.add_fresh(table)
    doublings = (BLOBS // batch).bit_length()
    assert moved["sorted"] <= BLOBS
    assert moved["moved"] <= doublings * BLOBS
    _, segments = index.parts()
    assert len(segments) <= doublings + 3


def test_a_look_up_reads_as_many_keys_whatever_the_size(many: list[PackTable]) -> None:
    class Counting:
        def __init__(self, keys: memoryview) -> None:
            self.keys = keys
            self.reads = 0

        def __len__(self) -> int:
            return len(self.keys)

        def __getitem__(self, at: int) -> int:
            self.reads += 1
            return self.keys[at]

    most = {}
    for size in (BLOBS // 64, BLOBS):
        index = Index()
        for table in many[: size // A_PACK]:
            index.add_table(table)
        segment = index.freeze()
        keys = segment._keys = Counting(segment._keys)  # type: ignore[assignment]
        asked = [blob_id for table in many[: size // A_PACK : 50] for blob_id in ids(table)]
        for blob_id in asked:
            assert list(segment.rows(blob_id))
        most[size] = keys.reads / len(asked)
    # A bisection of all would read log2 of the size, 17.6; the window's is half of that.
    assert most[BLOBS] < 17
    assert most[BLOBS] - most[BLOBS // 64] < 4


def test_segments_wait_to_be_merged_until_they_are_worth_it() -> None:
    assert first_to_merge([100, 10, 10, 10]) == 3
    assert first_to_merge([100, 10, 10, 10, 10]) == 1
    assert first_to_merge([40, 10, 10, 10, 10]) == 0
    large = 1 << 22
    assert first_to_merge([large] * 15) == 14
    assert first_to_merge([large] * 16) == 0


def test_a_large_index_is_kept_and_a_small_one_is_not(
    many: list[PackTable], tmp_path: Path
) -> None:
    def never() -> Index:
        raise AssertionError("nothing is wrong with the cache")

    cache = StateIndexCache(tmp_path / "cache")
    small = Index()
    for table in many[: 40_000 // A_PACK]:
        small.add_table(table)
    assert cache.keep(small, [OBJECT], never) is small
    assert not (tmp_path / "cache").exists()

    large = Index()
    for table in many:
        large.add_table(table)
    kept = cache.keep(large, [OBJECT], never)
    assert kept.kept_count == BLOBS
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["index"]
    assert (tmp_path / "cache/index").stat().st_mode & 0o077 == 0
    for table in many[::100]:
        for blob_id in ids(table):
            location = kept.find(blob_id)
            assert location is not None
            assert location.pack_id == table.pack_id
    tracemalloc.start()
    again, covered = cache.load([OBJECT, "index/" + "ef" * 32], never)
    found = sum(blob_id in again for table in many[:25] for blob_id in ids(table))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert covered == {OBJECT}
    assert found == 1000
    # Opening and looking up takes nothing that grows with the number of blobs.
    assert peak < 200_000
    # What is on top is little: the file stays as it is.
    written = (tmp_path / "cache/index").stat().st_mtime_ns
    for table in tables(20_000, seed=1):
        again.add_table(table)
    assert cache.keep(again, [OBJECT], never) is again
    assert (tmp_path / "cache/index").stat().st_mtime_ns == written
