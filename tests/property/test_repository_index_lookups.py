"""The index against a dictionary, over histories of packs that share blobs."""

from __future__ import annotations

from collections import defaultdict

import hypothesis.strategies as st
import pytest
from blake3 import blake3
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backupd.errors import DamagedError
from backupd.repository.index import Index
from backupd.repository.index_object import PackTable, index_bytes, parse_index
from backupd.repository.records import BlobRecord, parse_table, table_bytes

PACK_SIZE = 1000


def blob_id(number: int) -> bytes:
    """Ids of which some share their first eight bytes, by which rows are sorted."""
    digest = blake3(bytes([number])).digest()
    return (blake3(bytes([number % 5])).digest()[:8] if number % 2 else digest[:8]) + digest[8:]


IDS = [blob_id(number) for number in range(24)]
blobs = st.builds(
    BlobRecord,
    st.sampled_from(IDS),
    st.integers(0, 900),
    st.integers(28, 100),
    st.integers(0, 5000),
    st.integers(0, 3),
    st.integers(0, 3),
    st.just(b"") | st.sampled_from(IDS),
)


def table_of(number: int, records: list[BlobRecord]) -> PackTable:
    body = b"".join(record.pack() for record in records)
    bases = b"".join(record.base_id for record in records)
    pack_id = blake3(b"pack %d" % number).digest()
    return PackTable(pack_id, PACK_SIZE, table_bytes(len(records), body, bases))


class Lookups(RuleBasedStateMachine):
    """The reference: by blob, what each pack says of it; by pack, its records."""

    def __init__(self) -> None:
        super().__init__()
        self.index = Index()
        self.places: dict[bytes, dict[bytes, set[BlobRecord]]] = defaultdict(dict)
        self.records: dict[bytes, list[BlobRecord]] = {}
        self.avoided: set[bytes] = set()
        self.count = 0

    def remember(self, pack: PackTable, records: list[BlobRecord]) -> None:
        self.records[pack.pack_id] = records
        for record in records:
            self.places[record.blob_id].setdefault(pack.pack_id, set()).add(record)

    @rule(
        records=st.lists(blobs, max_size=6, unique_by=lambda record: record.blob_id),
        fresh=st.booleans(),
    )
    def add_pack(self, records: list[BlobRecord], fresh: bool) -> None:
        self.count += 1
        pack = table_of(self.count, records)
        (self.index.add_fresh if fresh else self.index.add_table)(pack)
        self.remember(pack, records)

    @precondition(lambda self: self.records)
    @rule(data=st.data(), records=st.lists(blobs, max_size=3), fresh=st.booleans())
    def add_a_known_pack(self, data: st.DataObject, records: list[BlobRecord], fresh: bool) -> None:
        number = data.draw(st.integers(1, self.count))
        pack = table_of(number, records)  # whatever it says now, it is known already
        (self.index.add_fresh if fresh else self.index.add_table)(pack)

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def avoid(self, data: st.DataObject) -> None:
        pack = data.draw(st.sampled_from(sorted(self.records)))
        self.avoided.add(pack)
        self.index.avoid([pack])

    @rule()
    def freeze(self) -> None:
        assert self.index.freeze() is not None

    @rule()
    def come_back_from_an_index_object(self) -> None:
        stored = index_bytes(list(self.index.tables()))
        self.index = Index()
        for pack in parse_index(stored):
            self.index.add_table(pack)
        self.index.avoid(self.avoided)

    @rule(record=blobs, beyond=st.sampled_from(["offset", "sealed", "plain"]))
    def refuse_a_table_that_lies(self, record: BlobRecord, beyond: str) -> None:
        lie = {
            "offset": BlobRecord(record.blob_id, PACK_SIZE, 28, 0, 0, 0),
            "sealed": BlobRecord(record.blob_id, 0, 27, 0, 0, 0),
            "plain": BlobRecord(record.blob_id, 0, 28, 1 << 27, 0, 0),
        }[beyond]
        with pytest.raises(DamagedError):
            self.index.add_table(table_of(10_000, [record, lie]))
        assert not self.index.has_pack(table_of(10_000, []).pack_id)

    @invariant()
    def each_blob_is_found_where_it_may_be(self) -> None:
        for name in IDS:
            places = self.places[name]
            good = places.keys() - self.avoided
            found = self.index.find(name)
            assert (name in self.index) == (found is not None) == bool(good)
            if found is not None:
                assert found.pack_id in good and found.record in places[found.pack_id]
            found = self.index.find(name, anywhere=True)
            assert (found is not None) == bool(places)
            if found is not None:
                assert found.pack_id in (good or places), "an avoided pack though another has it"
                assert found.record in places[found.pack_id]
        assert self.index.find(bytes(32)) is None

    @invariant()
    def of_many_at_once_none_that_is_there_is_missed(self) -> None:
        asked = [*IDS, bytes(32), bytes([255]) * 32]
        may = dict(zip(asked, self.index.may_have(asked), strict=True))
        assert all(may[name] for name in IDS if self.places[name])
        first = {name[:8] for name in IDS if self.places[name]}
        assert not any(may[name] for name in asked if name[:8] not in first)

    @invariant()
    def packs_are_known(self) -> None:
        assert self.index.packs == dict.fromkeys(self.records, PACK_SIZE)
        assert all(map(self.index.has_pack, self.records))

    def teardown(self) -> None:
        assert len(self.index) == sum(map(len, self.records.values()))
        found = {
            pack.pack_id: list(parse_table(memoryview(bytes(pack.table)), pack.size_bytes))
            for pack in self.index.tables()
        }
        assert found.keys() == self.records.keys()
        for pack_id, records in self.records.items():
            assert sorted(found[pack_id], key=repr) == sorted(records, key=repr)


Lookups.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestTheIndexIsTheDictionary = Lookups.TestCase


def test_many_fresh_packs_are_sorted_in_and_found() -> None:
    index, expected = Index(), {}
    for number in range(200):
        records = [
            BlobRecord(blake3(b"%d %d" % (number, blob)).digest(), 4 * blob, 28, 9, 0, 1)
            for blob in range(200)
        ]
        pack = table_of(number, records)
        (index.add_fresh if number % 3 else index.add_table)(pack)
        expected.update((record.blob_id, (pack.pack_id, record)) for record in records)
    for name, (pack_id, record) in list(expected.items())[::7]:
        found = index.find(name)
        assert found is not None and (found.pack_id, found.record) == (pack_id, record)
    assert len(index) == len(expected)
