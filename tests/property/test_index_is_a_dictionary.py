"""An index, whatever it is made of inside, answers as a dictionary of lists would."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.codec.sealing import OVERHEAD
from backupd.operations.index_cache import StateIndexCache
from backupd.repository.index import Index, Location
from backupd.repository.index_object import PackTable, index_bytes, parse_index
from backupd.repository.records import BlobRecord, parse_table, table_bytes
from backupd.repository.usage import Usage

PACK_SIZE = 1 << 20
unhurried = settings(deadline=None)
Reference = dict[bytes, list[Location]]


def blob_id_of(number: int) -> bytes:
    """Half of them agree, in fours, in what an index sorts by; the others are spread."""
    if number < 32:
        return bytes([number // 4 * 36]) * 8 + bytes(23) + bytes([number])
    return blake3(bytes([number])).digest()


def records_of(numbers: list[int]) -> tuple[BlobRecord, ...]:
    """Each number draws all of a record; a pack has no blob twice."""
    found = []
    offset = 0
    for number in {number % 64: number for number in numbers}.values():
        blob, base, rest = number % 64, number // 64 % 128, number // 8192
        base_id = blob_id_of(base) if base < 64 else b""
        sealed = OVERHEAD + rest % 5000
        found.append(
            BlobRecord(blob_id_of(blob), offset, sealed, rest, rest % 4, rest % 256, base_id)
        )
        offset += sealed
    return tuple(found)


Pack = tuple[bool, tuple[BlobRecord, ...]]
blob_ids = st.builds(blob_id_of, st.integers(0, 63))
packs = st.lists(
    st.tuples(st.booleans(), st.lists(st.integers(0, (1 << 35) - 1), max_size=6).map(records_of)),
    max_size=12,
)


@pytest.fixture(autouse=True, scope="module")
def small_steps() -> Iterator[None]:
    """Everything that happens at thousands of rows happens at a few."""
    with (
        mock.patch("backupd.repository.index._SORT_FRESH", 5),
        mock.patch("backupd.repository.index._SORT_TABLES", 4),
        mock.patch("backupd.repository.index._SMALL_SEGMENT", 16),
        mock.patch("backupd.repository.index._MERGE_LARGE", 6),
        mock.patch("backupd.repository.index_segment.BLOCK_ROWS", 3),
        mock.patch("backupd.repository.index_packs._SORT_AFTER", 2),
        mock.patch("backupd.repository.usage._BATCH", 3),
        mock.patch("backupd.operations.index_cache._WORTH_BLOBS", 1),
        mock.patch("backupd.operations.index_cache._PAGE", 8),
    ):
        yield


def table_of(number: int, found: tuple[BlobRecord, ...]) -> PackTable:
    rows = b"".join(record.pack() for record in found)
    bases = b"".join(record.base_id for record in found)
    pack_id = bytes([number * 7 % 256]) * 8 + bytes(23) + bytes([number])
    return PackTable(pack_id, PACK_SIZE - number, table_bytes(len(found), rows, bases))


def fill(index: Index, content: list[Pack], first: int = 0) -> Reference:
    """Add the packs, and tell what must be found; a pack added twice is one."""
    reference: Reference = {}
    for number, (fresh, found) in enumerate(content, first):
        table = table_of(number, found)
        for _ in range(2):
            (index.add_fresh if fresh else index.add_table)(table)
        for record in found:
            reference.setdefault(record.blob_id, []).append(Location(table.pack_id, record))
    return reference


def assert_same(index: Index, reference: Reference, asked: list[bytes]) -> None:
    assert len(index) == sum(map(len, reference.values()))
    for blob_id in [*reference, *asked]:
        found = index.find(blob_id, anywhere=True)
        assert found in reference[blob_id] if blob_id in reference else found is None


@unhurried
@given(packs, st.lists(blob_ids, max_size=5), st.sets(st.integers(0, 11)))
def test_a_blob_is_found_where_it_is_and_outside_of_avoided_packs_where_it_can_be(
    content: list[Pack], asked: list[bytes], avoided: set[int]
) -> None:
    index = Index()
    reference = fill(index, content)
    assert_same(index, reference, asked)
    names = {table_of(number, ()).pack_id for number in avoided}
    index.avoid(names)
    for blob_id, locations in reference.items():
        allowed = [place for place in locations if place.pack_id not in names]
        found = index.find(blob_id)
        assert found in allowed if allowed else found is None
        assert (blob_id in index) == bool(allowed)
        assert index.find(blob_id, anywhere=True) in locations


@unhurried
@given(packs)
def test_tables_come_back_byte_for_byte_with_base_ids_in_their_order(content: list[Pack]) -> None:
    index = Index()
    fill(index, content)
    given_tables = {
        (table := table_of(number, found)).pack_id: table
        for number, (_, found) in enumerate(content)
    }
    assert {table.pack_id: table for table in index.tables()} == given_tables
    stored = index_bytes(index.tables())
    again = {pack.pack_id: bytes(pack.table) for pack in parse_index(stored)}
    assert again == {pack_id: table.table for pack_id, table in given_tables.items()}
    assert index.packs == {pack_id: table.size_bytes for pack_id, table in given_tables.items()}
    for table in given_tables.values():
        assert index.has_pack(table.pack_id)
        assert index.pack_of(index.number_of(table.pack_id)) == table.pack_id


@unhurried
@given(packs, st.lists(blob_ids, max_size=20), st.sets(st.integers(0, 11)))
def test_marking_many_blobs_marks_what_marking_each_does(
    content: list[Pack], wanted: list[bytes], disliked: set[int]
) -> None:
    index = Index()
    fill(index, content)
    names = {table_of(number, ()).pack_id for number in disliked}
    one_by_one, at_once = Usage(index, names), Usage(index, names)
    for blob_id in wanted:
        one_by_one.add(blob_id)
    at_once.add_many(b"".join(wanted))
    assert at_once.missing == one_by_one.missing
    rows = range(len(index))
    assert [at_once.is_used(row) for row in rows] == [one_by_one.is_used(row) for row in rows]
    assert at_once.packs() == one_by_one.packs()
    assert at_once.held_bytes() == one_by_one.held_bytes()


class Target:
    """What the truth would be read from: counts how often it is."""

    def __init__(self, content: list[Pack]) -> None:
        self.content = content
        self.read = 0

    def __call__(self) -> Index:
        self.read += 1
        index = Index()
        fill(index, self.content)
        return index


def through_cache(folder: Path, content: list[Pack], reload: Callable[[], Index]) -> Index:
    cache = StateIndexCache(folder)
    index = Index()
    fill(index, content)
    return cache.keep(index, ["index/" + "ab" * 32], reload)


@unhurried
@given(packs, packs, st.lists(blob_ids, max_size=5))
def test_a_kept_index_answers_as_before_also_with_more_on_top(
    content: list[Pack], more: list[Pack], asked: list[bytes]
) -> None:
    target = Target(content)
    with tempfile.TemporaryDirectory() as folder:
        index = through_cache(Path(folder), content, target)
        reference = fill(Index(), content)
        for blob_id, places in fill(index, more, first=len(content)).items():
            reference.setdefault(blob_id, []).extend(places)
        assert_same(index, reference, asked)
        assert target.read == 0
        found = index.tables()
        expected = {(t := table_of(n, f)).pack_id: t for n, (_, f) in enumerate([*content, *more])}
        assert {table.pack_id: table for table in found} == expected


@unhurried
@given(packs.filter(lambda content: any(found for _, found in content)), packs, st.data())
def test_whatever_bit_of_a_cache_is_wrong_no_blob_is_found_in_a_wrong_place(
    content: list[Pack], more: list[Pack], data: st.DataObject
) -> None:
    target = Target(content)
    names = ["index/" + "ab" * 32]
    with tempfile.TemporaryDirectory() as folder:
        assert through_cache(Path(folder), content, target).kept_count
        path = Path(folder, "index")
        raw = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(raw)
        index, covered = StateIndexCache(Path(folder)).load(names, target)
        if not covered:
            return
        reference = fill(Index(), content)
        for blob_id, found in fill(index, more, first=len(content)).items():
            reference.setdefault(blob_id, []).extend(found)
        for blob_id, locations in reference.items():
            location = index.find(blob_id, anywhere=True)
            if location is None:
                # A search that was led astray: what `recover_index` does before it gives up.
                assert index.distrust()
                location = index.find(blob_id, anywhere=True)
            assert location in locations
        assert target.read <= 1
        for table in index.tables():
            for record in parse_table(memoryview(table.table), table.size_bytes):
                assert Location(table.pack_id, record) in reference[record.blob_id]
