"""What is stored: the decoders of the codec and of the repository's objects."""

from __future__ import annotations

import json

import numpy as np
import zstandard
from blake3 import blake3

import backupd.codec.number_blobs  # noqa: F401 - here, as what comes late the fuzzer cannot follow
from backupd.codec.blob import BlobDecoder, BlobHeader, Codec
from backupd.codec.plane_decoder import PlaneDecoder
from backupd.codec.planes import PlaneEncoder, payload_bound
from backupd.codec.sealing import seal
from backupd.errors import DamagedError
from backupd.repository.descriptor import parse_descriptor
from backupd.repository.index import Index, Location
from backupd.repository.index_object import PackTable, index_bytes, parse_index
from backupd.repository.records import check_table, parse_table, table_bytes, table_size
from backupd.repository.snapshots import decode_snapshot, encode_snapshot
from backupd.repository.tree_codec import decode_tree, decode_values, encode_entry, path_of
from backupd.targets.capabilities import (
    Capabilities,
    Creation,
    Lock,
    Ranges,
    decode_capabilities,
    encode_capabilities,
)
from tests.support.deltas import encode_delta, ordered_delta
from tests.support.stored_parsers import NAME, PARSERS, PLAIN, TABLE
from tests.torture.fuzzing.target import Target

# -- numbers --------------------------------------------------------------------------------------

BASE = (np.random.default_rng(1).standard_normal(300) * 0.02).astype("f4").tobytes()
CHUNK = (np.frombuffer(BASE, "f4") * np.float32(1.001)).tobytes()
# Decoders keep buffers: one has decoded other things than the other, and both give the same.
DECODERS = (PlaneDecoder(), PlaneDecoder())


def payloads() -> tuple[bytes, ...]:
    planes, out = PlaneEncoder(), bytearray(payload_bound(4096))
    found = []
    for width, numbers, phase in ((4, True, 0), (2, False, 1), (8, False, 0), (1, False, 0)):
        size = planes.encode(CHUNK, width, numbers, out, phase=phase)
        found.append(b"\0" + size_bytes(CHUNK) + bytes(out[:size]))
    for make in (encode_delta, ordered_delta):
        size = make(planes, CHUNK, BASE, 4, True, out)
        found.append(b"\1" + size_bytes(CHUNK) + bytes(out[:size]))
    return tuple(found)


def size_bytes(chunk: bytes) -> bytes:
    return len(chunk).to_bytes(2, "little")


def check_planes(data: bytes) -> None:
    """The first byte says whether there is a base, the next two how long the chunk is."""
    size = int.from_bytes(data[1:3], "little")
    base = (BASE * (size // len(BASE) + 1))[:size] if data[:1] == b"\1" else None
    outs = bytearray(size), bytearray(b"\xff") * size
    refusals = 0
    for decoder, out in zip(DECODERS, outs, strict=True):
        try:
            decoder.decode(data[3:], out, base=base)
        except DamagedError as error:
            assert error.message
            refusals += 1
    assert refusals in (0, 2)
    assert refusals or outs[0] == outs[1], "a part of the chunk is not the payload's"
    DECODERS[0].decode(SOUND, bytearray(len(CHUNK)))


PAYLOADS = payloads()
SOUND = PAYLOADS[0][3:]


def check_blob(data: bytes) -> None:
    size = int.from_bytes(data[:2], "little")
    plain = BlobDecoder().decode(data[2:], size, lambda blob_id: (BASE * 60)[:size])
    assert len(plain) == size


def blobs() -> tuple[bytes, ...]:
    compress = zstandard.ZstdCompressor().compress
    raw = BlobHeader(Codec.RAW).pack() + CHUNK
    packed_up = BlobHeader(Codec.ZSTD).pack() + compress(CHUNK)
    return (
        *(size_bytes(CHUNK) + data for data in (raw, packed_up)),
        *(data[1:3] + BlobHeader(Codec.PLANES).pack() + data[3:] for data in PAYLOADS[:2]),
        *(data[1:3] + BlobHeader(Codec.DELTA, b"", bytes(32)).pack() + data[3:]
          for data in PAYLOADS[4:]),
    )  # fmt: skip


# -- objects --------------------------------------------------------------------------------------


def check_table_both_ways(data: bytes) -> None:
    """Parsing records and checking them in bulk agree, whatever bounds they break."""
    view = memoryview(data)
    table = view[: table_size(view)]
    outcomes = []
    for look in (check_table, lambda *given: list(parse_table(*given))):
        try:
            look(table, 1 << 20)
            outcomes.append(True)
        except DamagedError:
            outcomes.append(False)
    assert outcomes[0] == outcomes[1]
    PARSERS["table"][0](data)


def check_tree(data: bytes) -> None:
    for value in decode_values(data):
        path_of(value)
    entries = list(decode_tree(data))
    assert list(decode_tree(b"".join(map(encode_entry, entries)))) == entries


def check_index(data: bytes) -> None:
    """Every blob that an index names is found in it; of a pack told twice the first word holds."""
    index, tables = Index(), {}
    for pack in parse_index(data):
        index.add_table(pack)
        records = parse_table(memoryview(pack.table), pack.size_bytes)
        tables.setdefault(pack.pack_id, list(records))
    for pack_id, records in tables.items():
        for record in records:
            assert Location(pack_id, record) in list(index.copies(record.blob_id))


def check_snapshot(data: bytes) -> None:
    record = decode_snapshot(sealed_up(data), NAME, PLAIN)
    again = decode_snapshot(bytes(encode_snapshot(record, NAME, PLAIN)), NAME, PLAIN)
    assert repr(again) == repr(record)  # not by ==, as no NaN is equal to itself


def sealed_up(text: bytes) -> bytes:
    compressed = zstandard.ZstdCompressor().compress(text)
    return bytes(seal(PLAIN, compressed, b"backupd format 1: snapshot " + NAME.encode()))


def described_again(data: bytes) -> object:
    """A descriptor whose digest is that of whatever else it says, where it is JSON at all."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        data = json.dumps(value | {"digest": _digest(value)}).encode()
    return parse_descriptor(data, "here")


def _digest(value: dict[str, object]) -> str:
    rest = {key: part for key, part in value.items() if key != "digest"}
    return blake3(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_capabilities(data: bytes) -> None:
    found = decode_capabilities(data, "here")
    if found is not None:
        assert decode_capabilities(encode_capabilities(found, "here"), "here") == found


def stored(
    name: str, *more: bytes, words: tuple[bytes, ...] = (), most_bytes: int = 2048
) -> Target:
    """A parser of the repository as it is, told by its name there."""
    parse, sound = PARSERS[name]
    return Target(parse, (sound,), (DamagedError,), words, most_bytes=2048)


JSON_WORDS = (b"1e400", b"NaN", b"-1", b"null", b'"\\ud800"', b"{}", b"[]", b'""')
TREE_WORDS = (*JSON_WORDS, b'"path64":"', b'"link":"', b'"xattrs":{', b'"chunks":[', b'"extents":[',
              b'"list":"', b"}\n{")  # fmt: skip
HEADER_WORDS = (b"\1\0\0\0", b"\2\0\0\0", b"\3\1\0\0", b"\0\0\0\0", b"\x28\xb5\x2f\xfd",
                b"\xff\xff\xff\xff")  # fmt: skip

SNAPSHOT = PARSERS["snapshot past its seal"][1]
TABLES = tuple(
    table_bytes(count, PARSERS["table"][1][4:52] * count, bytes(32) * count) for count in (0, 2, 70)
)
CAPABILITIES = Capabilities(
    Creation.ATOMIC, Ranges.PARTIAL, True, True, True, True, False, Lock.ABSENT, 0.5, 1.5
)

TARGETS = {
    "planes": Target(check_planes, PAYLOADS, (), HEADER_WORDS),
    "blob": Target(check_blob, blobs(), (DamagedError,), HEADER_WORDS),
    "tree": Target(
        check_tree,
        (
            PARSERS["tree"][1],
            b'{"type":"link","path":"a","link64":"/w==","mode":1,"uid":1,"gid":1,'
            b'"mtime":1,"ctime":1,"inode":1,"device":1,"size":0}\n',
        ),
        (DamagedError,),
        TREE_WORDS,
    ),
    "tree entry": stored("entry", words=TREE_WORDS),
    "chunk list": stored("chunk list"),
    "table": Target(check_table_both_ways, (TABLE, *TABLES), (DamagedError,)),
    "index": Target(
        check_index,
        (
            PARSERS["index"][1],
            index_bytes(
                [PackTable(bytes([n]) * 32, 5000, table) for n, table in enumerate(TABLES)]
            ),
        ),
        (DamagedError,),
        (b"backupd index 1\n",),
        most_bytes=8192,
    ),
    "pack": stored("pack"),
    "descriptor": Target(
        described_again, (PARSERS["descriptor"][1],), (DamagedError,), JSON_WORDS, most_bytes=1024
    ),
    "key": stored("key", words=JSON_WORDS),
    "snapshot": Target(check_snapshot, (SNAPSHOT,), (DamagedError,), JSON_WORDS),
    "snapshot as it is packed": stored("snapshot past its seal, unpacked", words=HEADER_WORDS),
    "amendment": stored("amendment past its seal", words=JSON_WORDS),
    "tombstone": stored("tombstone", words=JSON_WORDS),
    "capabilities": Target(
        check_capabilities, (encode_capabilities(CAPABILITIES, "here"),), (), JSON_WORDS
    ),
}
