"""What the repository writes is what it reads, and what is not what it wrote is refused.

Every parser gets arbitrary bytes, and sound ones with a few changed: it gives a value or raises
`DamagedError`, and takes no memory by a number that it was told.
"""

from __future__ import annotations

import json
import os
import tracemalloc
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from backupd.codec.blob import (
    HEADROOM,
    BlobDecoder,
    BlobEncoder,
    BlobHeader,
    Encoded,
    framed,
    parse_header,
)
from backupd.codec.chunking_parameters import ChunkingParameters
from backupd.codec.sealing import seal, unseal
from backupd.codec.secrets import derive
from backupd.errors import DamagedError
from backupd.repository.descriptor import Descriptor, parse_descriptor
from backupd.repository.index_object import ASSOCIATED, PackTable, index_bytes, parse_index
from backupd.repository.layout import pack_name
from backupd.repository.pack import TABLE_ASSOCIATED, PackBuilder, read_table
from backupd.repository.records import BlobKind, BlobRecord, parse_table, table_bytes
from backupd.repository.snapshots import (
    LeftOut,
    SnapshotName,
    SnapshotRecord,
    amended,
    decode_snapshot,
    encode_amendment,
    encode_snapshot,
    parse_name,
)
from backupd.repository.tombstones import decode_tombstone, encode_tombstone
from backupd.repository.tree import ChunkRef, FileType, Metadata, TreeEntry
from backupd.repository.tree_codec import (
    decode_chunk_list,
    decode_entry,
    decode_tree,
    encode_chunk_list,
    encode_entry,
)
from backupd.targets.memory import MemoryTarget
from tests.support.stored_parsers import NAME, PARSERS, PLAIN, SECRETS
from tests.targets.faulty import FaultyTarget, unreachable

SEALED = derive(bytes(range(32)), encrypted=True).sealer(os.urandom)

ids = st.binary(min_size=32, max_size=32)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
sizes = st.integers(0, 1 << 26)
numbers = st.integers(-(2**63), 2**63)
paths = st.binary(min_size=1, max_size=40)
refs = st.lists(st.builds(ChunkRef, ids, sizes), max_size=5).map(tuple)

entries = st.builds(
    TreeEntry,
    path=st.binary(max_size=40),
    type=st.sampled_from(FileType),
    metadata=st.builds(
        Metadata,
        *(numbers,) * 7,
        sizes,
        user=words,
        group=words,
        xattrs=st.dictionaries(paths, st.binary(max_size=30), max_size=3),
    ),
    link=st.binary(max_size=40),
    chunks=refs,
    chunk_list=st.just(b"") | ids,
    extents=st.lists(st.tuples(sizes, sizes), max_size=3).map(tuple),
    content_hash=st.just(b"") | ids,
    layout=st.just(b"") | ids,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
records = st.builds(
    SnapshotRecord,
    host=words,
    model=words,
    version=st.integers(1, 10**9),
    time=st.floats(0, 1e11),
    root=st.binary(max_size=60),
    trees=st.lists(ids, max_size=3).map(tuple),
    parent=st.integers(0, 10**9),
    project=words,
    labels=st.dictionaries(words, words, max_size=3),
    metrics=st.dictionaries(words, st.floats(allow_nan=False), max_size=3),
    code=st.dictionaries(words, values, max_size=3),
    file_count=sizes,
    folder_count=sizes,
    size_bytes=sizes,
    added_bytes=sizes,
    stored_bytes=sizes,
    duration_seconds=st.floats(0, 1e9),
    incomplete=st.lists(words, max_size=2).map(tuple),
    skipped=st.lists(words, max_size=2).map(tuple),
    made_by=words,
    step=st.none() | st.integers(0, 10**12),
    epoch=st.none() | st.floats(0, 1e9),
    scheme=words,
    left_out=st.lists(
        st.builds(LeftOut, words, sizes, sizes, st.lists(words, max_size=2).map(tuple)), max_size=2
    ).map(tuple),
    ancestry=st.lists(st.tuples(sizes, sizes), max_size=3).map(tuple),
)


@given(st.lists(entries, max_size=4))
def test_trees_come_back(tree: list[TreeEntry]) -> None:
    assert list(decode_tree(b"".join(map(encode_entry, tree)))) == tree
    assert [decode_entry(encode_entry(entry)) for entry in tree] == tree


@given(refs)
def test_chunk_lists_come_back(chunks: tuple[ChunkRef, ...]) -> None:
    assert tuple(decode_chunk_list(encode_chunk_list(chunks))) == chunks


@given(records)
def test_snapshots_come_back(record: SnapshotRecord) -> None:
    for sealer in (PLAIN, SEALED):
        assert decode_snapshot(bytes(encode_snapshot(record, NAME, sealer)), NAME, sealer) == record


@given(records, st.dictionaries(words, words, max_size=3))
def test_amendments_give_a_snapshot_other_labels(
    record: SnapshotRecord, labels: dict[str, str]
) -> None:
    stored = bytes(encode_amendment(labels, NAME + "+000001", SEALED))
    later = amended(record, stored, NAME + "+000001", SEALED)
    assert later == replace(record, labels=labels)


@pytest.mark.parametrize("sealer", [PLAIN, SEALED], ids=["plain", "encrypted"])
def test_a_store_that_renames_snapshots_is_noticed(sealer: object) -> None:
    record = SnapshotRecord("box", "m", 7, 0.0, b"/m", ())
    stored = bytes(encode_snapshot(record, NAME, sealer))  # type: ignore[arg-type]
    labels = bytes(encode_amendment({}, NAME + "+000001", sealer))  # type: ignore[arg-type]
    for other in (NAME[:-1] + "8", NAME.replace("ab", "cd"), NAME + "+000001"):
        with pytest.raises(DamagedError):
            decode_snapshot(stored, other, sealer)  # type: ignore[arg-type]
    for other in (NAME, NAME + "+000002"):
        with pytest.raises(DamagedError):
            amended(record, labels, other, sealer)  # type: ignore[arg-type]


@given(
    st.text("0123456789abcdef", min_size=32, max_size=32),
    st.integers(1, 10**10 - 1),
    st.sampled_from([(0, False), (1, False), (999_999, False), (0, True)]),
)
def test_snapshot_names_come_back(folder: str, version: int, more: tuple[int, bool]) -> None:
    name = SnapshotName(folder, version, *more)
    assert parse_name(name.object_name()) == name


@given(st.floats(0, 1e11), st.frozensets(ids, max_size=5))
def test_tombstones_come_back_under_their_own_name(marked: float, packs: frozenset[bytes]) -> None:
    name, stored = encode_tombstone(marked, packs, SEALED)
    stone = decode_tombstone(stored, name, SEALED)
    assert (stone.marked, stone.packs, stone.name) == (marked, packs, name)


@given(st.booleans(), st.text("0123456789abcdef", min_size=32, max_size=32))
def test_the_descriptor_comes_back(encrypted: bool, name: str) -> None:
    descriptor = Descriptor(name, encrypted, ChunkingParameters(64, 128, 256, 10, 9))
    assert parse_descriptor(descriptor.to_json(), "here") == descriptor


@given(st.integers(0, 255), st.binary(max_size=255), st.just(b"") | ids, st.binary(max_size=50))
def test_blob_headers_come_back(codec: int, parameters: bytes, base: bytes, payload: bytes) -> None:
    header = BlobHeader(codec, parameters, base)
    found, begin = parse_header(header.pack() + payload)
    assert found == header and (header.pack() + payload)[begin:] == payload


@settings(deadline=None)
@given(
    st.binary(max_size=4000)
    | st.builds(lambda b, n: b * n, st.binary(max_size=9), sizes.map(lambda n: n % 30_000))
)
def test_blobs_come_back(chunk: bytes) -> None:
    encoded = BlobEncoder().encode(framed(chunk))
    assert bytes(BlobDecoder().decode(encoded.data, len(chunk))) == chunk
    assert len(encoded.data) <= len(chunk) + HEADROOM
    for wrong in (len(chunk) + 1, max(0, len(chunk) - 1) if chunk else 7, 1 << 40):
        with pytest.raises(DamagedError):
            BlobDecoder().decode(encoded.data, wrong)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.binary(max_size=200), st.sampled_from(BlobKind), st.just(b"") | ids),
        max_size=6,
    )
)
def test_packs_come_back(blobs: list[tuple[bytes, BlobKind, bytes]]) -> None:
    target, builder = MemoryTarget(), PackBuilder(SEALED)
    for plain, kind, base in blobs:
        data = BlobHeader(0, b"", base).pack() + plain
        builder.add(SECRETS.blob_id(plain), kind, len(plain), Encoded(0, base, data))
    pack = builder.finish()
    target.put(pack_name(pack.pack_id), [pack.data])
    stored = target.get(pack_name(pack.pack_id), 1 << 30)
    table = read_table(target, pack.pack_id, len(stored), SEALED)
    assert table == pack.table
    found = list(parse_table(memoryview(table), len(stored)))
    nonces = set()
    for (plain, kind, base), record in zip(blobs, found, strict=True):
        assert (record.blob_id, record.kind, record.base_id) == (SECRETS.blob_id(plain), kind, base)
        sealed = stored[record.offset : record.offset + record.sealed_size]
        nonces.add(sealed[:12])
        opened = unseal(SEALED, sealed, record.blob_id)
        assert parse_header(opened)[1] == len(opened) - len(plain)
        assert opened.endswith(plain)
        with pytest.raises(DamagedError):
            unseal(SEALED, sealed, SECRETS.blob_id(plain + b"other"))
    assert len(nonces) == len(blobs), "a nonce was used twice in a pack"


@pytest.mark.parametrize("count", [1, 2, 339, 340, 341, 342, 2000])
def test_a_table_takes_one_read_where_it_is_short_and_two_where_it_is_not(count: int) -> None:
    memory, builder = MemoryTarget(), PackBuilder(SEALED)
    for number in range(count):
        data = BlobHeader(0, b"", b"").pack() + b"%d" % number
        builder.add(SECRETS.blob_id(data), BlobKind.TREE, 4, Encoded(0, b"", data))
    pack = builder.finish()
    memory.put(pack_name(pack.pack_id), [pack.data])
    target = FaultyTarget(memory, unreachable(0))
    assert read_table(target, pack.pack_id, len(pack.data), SEALED) == pack.table
    # Sealed it is longer by a nonce and a tag, and the trailer comes after it.
    assert len(target.calls) == (1 if len(pack.table) + 12 + 16 + 12 <= 16 * 1024 else 2)


def test_a_store_that_swaps_packs_or_their_tables_is_noticed() -> None:
    target, builder = MemoryTarget(), PackBuilder(SEALED)
    builder.add(bytes(32), BlobKind.DATA, 3, Encoded(0, b"", b"\0\0\0\0abc"))
    pack = builder.finish()
    table = bytes(seal(SEALED, pack.table, ASSOCIATED))  # an index's bytes in a pack's place
    forged = bytes(pack.data[:40]) + table + len(table).to_bytes(4, "little") + b"backupd1"
    target.put(pack_name(pack.pack_id), [forged])
    with pytest.raises(DamagedError):
        read_table(target, pack.pack_id, len(forged), SEALED)


@given(
    st.lists(
        st.tuples(
            ids,
            st.lists(
                st.tuples(ids, st.integers(0, 900), st.integers(28, 99), sizes, st.just(b"") | ids),
                max_size=3,
            ),
        ),
        max_size=4,
    )
)
def test_index_objects_come_back(
    packs: list[tuple[bytes, list[tuple[bytes, int, int, int, bytes]]]],
) -> None:
    tables = []
    for pack_id, blobs in packs:
        rows = [BlobRecord(i, at, n, plain, 0, 1, base) for i, at, n, plain, base in blobs]
        body = b"".join(row.pack() for row in rows)
        bases = b"".join(row.base_id for row in rows)
        tables.append(PackTable(pack_id, 1000, table_bytes(len(rows), body, bases)))
        assert list(parse_table(memoryview(tables[-1].table), 1000)) == rows
    found = list(parse_index(index_bytes(tables)))
    assert [replace(pack, table=bytes(pack.table)) for pack in found] == tables


# -- what is not what was written -----------------------------------------------------------------


@pytest.mark.parametrize("name", PARSERS)
def test_the_sound_bytes_are_taken(name: str) -> None:
    parse, sound = PARSERS[name]
    parse(sound)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=300))
@example(data=b"")
@example(data=b"[" * 100_000)
@example(data=b"\xff" * 80)
def test_arbitrary_bytes_are_refused_in_words(name: str, data: bytes) -> None:
    try:
        PARSERS[name][0](data)
    except DamagedError as error:
        assert error.message


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=60, deadline=None)
@given(draw=st.data())
def test_changed_bytes_are_refused_in_words(name: str, draw: st.DataObject) -> None:
    parse, sound = PARSERS[name]
    data = bytearray(sound)
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, len(data)))
        cut = draw.draw(st.integers(0, 6))
        data[at : at + cut] = draw.draw(st.binary(max_size=6))
    try:
        parse(bytes(data))
    except DamagedError as error:
        assert error.message


JSON_PARSERS = [
    name for name in PARSERS if PARSERS[name][1].lstrip()[:1] == b"{" and name != "tree"
]


ODD: list[object] = [
    *(None, True, -1, 1e400, float("nan"), 10**400, "", "x", "\ud800", "0" * 62, "\u00e9" * 64),
    *([], [[]], {}, {"": 1}),
]


def places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    found = [path] if path else []
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


@pytest.mark.parametrize("name", JSON_PARSERS)
def test_members_of_any_other_kind_are_refused_in_words(name: str) -> None:
    parse, sound = PARSERS[name]
    for place in places(json.loads(sound)):
        for other in ODD:
            value = json.loads(sound)
            holder = value
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = other
            try:
                parse(json.dumps(value).encode() + b"\n")
            except DamagedError as error:
                assert error.message


HALF_A_GIB = BlobRecord(bytes(32), 0, 1 << 29, 5, 0, 0).pack()
# A frame whose header states 2^60 bytes (RFC 8878, section 3.1.1.1).
HUGE_FRAME = b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 7 + b"\x0f" + bytes(20)


@pytest.mark.parametrize(
    ("name", "hostile"),
    [
        ("table", b"\xff\xff\xff\xff" + bytes(100)),
        ("index", b"backupd index 1\n" + bytes(32) + b"\xff" * 8 + b"\xff\xff\xff\xff"),
        ("index", index_bytes([PackTable(bytes(32), 1 << 30, b"\1\0\0\0" + HALF_A_GIB)])),
        ("pack", bytes(100) + b"\xff\xff\xff\x7fbackupd1"),
        ("blob", b"\1\0\0\0" + HUGE_FRAME),
        ("blob", b"\2\0\0\0" + b"\4\0\0\1" + b"\1\0\4\xff\xff\xff\xff"),
        ("snapshot past its seal, unpacked", HUGE_FRAME),
    ],
)
def test_nothing_is_allocated_by_a_claimed_length(name: str, hostile: bytes) -> None:
    parse = PARSERS[name][0]
    with pytest.raises(DamagedError):
        parse(hostile)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError):
            parse(hostile)
        # A decoder has four blocks of a mebibyte to work in, whatever it is given, which are there
        # already where another test has used it; what is claimed here is 16 MiB and more.
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_every_byte_of_the_descriptor_is_vouched_for() -> None:
    stored = Descriptor("0" * 32, False, ChunkingParameters()).to_json()
    sound = parse_descriptor(stored, "here")
    for at in range(len(stored)):
        changed = bytearray(stored)
        changed[at] ^= 1
        try:
            assert parse_descriptor(bytes(changed), "here") == sound  # white space
        except DamagedError:
            continue


def test_table_associated_data_is_that_of_the_specification() -> None:
    assert TABLE_ASSOCIATED == b"backupd format 1: pack table"
    assert ASSOCIATED == b"backupd format 1: index"
