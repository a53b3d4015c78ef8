"""Whatever lies in packs, the order of reading misses nothing and reads no byte twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backupd.repository.index import Location
from backupd.repository.read_order import LEAST_ALONE, MERGE_MOST, families, spans, whole_pack
from backupd.repository.records import BlobKind, BlobRecord

PACK = bytes(32)


def record(number: int, offset: int, size: int, base: int = -1) -> BlobRecord:
    base_id = b"" if base < 0 else base.to_bytes(32, "big")
    return BlobRecord(
        number.to_bytes(32, "big"), offset, size, size, BlobKind.DATA, 3 if base_id else 2, base_id
    )


sizes = st.lists(st.integers(1, 6 << 20), max_size=20)


@given(sizes, st.integers(0, 1 << 20), st.randoms())
def test_the_reads_of_a_whole_pack_are_its_bytes_in_order(
    blob_sizes: list[int], tail: int, random: object
) -> None:
    records, end = [], 0
    for number, size in enumerate(blob_sizes):
        records.append(record(number, end, size))
        end += size
    random.shuffle(records)  # type: ignore[attr-defined]
    at, seen = 0, []
    for span in whole_pack(PACK, end + tail, records):
        assert span.offset == at
        at += span.size_bytes
        for found in span.records:
            assert span.offset <= found.offset
            assert found.offset + found.sealed_size <= at
            seen.append(found)
        assert len(span.records) < 2 or span.size_bytes <= MERGE_MOST + tail
    assert at == end + tail
    assert sorted(seen, key=lambda r: r.offset) == sorted(records, key=lambda r: r.offset)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, LEAST_ALONE * 2)), max_size=30),
    st.sets(st.integers(0, 9)),
)
def test_each_blob_is_read_once_and_a_shared_base_goes_before_its_deltas(
    given_deltas: list[tuple[int, int]], plain: set[int]
) -> None:
    locations = [Location(PACK, record(base, base, LEAST_ALONE)) for base in plain]
    locations += [
        Location(PACK, record(100 + number, 1000 + number, size, base))
        for number, (base, size) in enumerate(given_deltas)
    ]
    shared, others = families(locations)
    read = [r for family in shared for span in family.deltas for r in span.records]
    read += [r for span in spans(others) for r in span.records]
    ids = [r.blob_id for r in read] + [family.base_id for family in shared if family.wanted]
    assert sorted(ids) == sorted(location.record.blob_id for location in locations)
    for family in shared:
        assert all(r.base_id == family.base_id for span in family.deltas for r in span.records)
        assert len(family.deltas) + family.wanted > 1
    large = [r for r in read if r.base_id and r.sealed_size >= LEAST_ALONE]
    grouped = {family.base_id for family in shared}
    for base_id in {r.base_id for r in large}:
        alone = sum(r.base_id == base_id for r in large) == 1
        assert (base_id in grouped) != (alone and int.from_bytes(base_id, "big") not in plain)
