"""The parsers of the repository's objects, each with bytes that it takes: what tests damage."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import zstandard

from backupd.codec.blob import BlobDecoder, BlobEncoder, BlobHeader, Encoded, framed
from backupd.codec.chunking_parameters import ChunkingParameters
from backupd.codec.sealing import seal, unseal
from backupd.codec.secrets import PUBLIC_MASTER_KEY, derive
from backupd.repository import keys
from backupd.repository.descriptor import Descriptor, parse_descriptor
from backupd.repository.index import Index
from backupd.repository.index_object import PackTable, index_bytes, parse_index
from backupd.repository.layout import pack_name
from backupd.repository.pack import PackBuilder, read_table
from backupd.repository.records import BlobKind, BlobRecord, parse_table, table_bytes, table_size
from backupd.repository.snapshots import (
    SnapshotRecord,
    amended,
    decode_snapshot,
    encode_snapshot,
)
from backupd.repository.tombstones import decode_tombstone
from backupd.repository.tree import ChunkRef, FileType, Metadata, TreeEntry
from backupd.repository.tree_codec import (
    decode_chunk_list,
    decode_entry,
    decode_tree,
    encode_chunk_list,
    encode_entry,
)
from backupd.targets.memory import MemoryTarget

SECRETS = derive(PUBLIC_MASTER_KEY, encrypted=False)
PLAIN = SECRETS.sealer(os.urandom)
NAME = "snapshots/" + "ab" * 16 + "/0000000007"


def parse_all_of_table(data: bytes) -> None:
    view = memoryview(data)
    size = table_size(view)
    for _ in parse_table(view[:size], 1 << 20):
        pass
    Index().add_table(PackTable(bytes(32), 1 << 20, view[:size]))


def parse_all_of_index(data: bytes) -> None:
    index = Index()
    for pack in parse_index(data):
        index.add_table(pack)
    index.find(bytes(32))


def parse_pack(data: bytes) -> None:
    target = MemoryTarget()
    target.put(pack_name(bytes(32)), [data])
    parse_all_of_table(read_table(target, bytes(32), len(data), PLAIN))


def resealed(decode: Callable[[bytes], object], associated: bytes) -> Callable[[bytes], object]:
    """Past the seal, as a store without encryption can get."""
    return lambda data: decode(bytes(seal(PLAIN, data, associated)))


def packed(decode: Callable[[bytes], object], name: str) -> Callable[[bytes], object]:
    compress = zstandard.ZstdCompressor().compress
    inner = resealed(decode, b"backupd format 1: snapshot " + name.encode())
    return lambda data: inner(compress(data))


SNAPSHOT = SnapshotRecord(
    "box", "m", 7, 1.5, b"/m", (bytes(32),), labels={"a": "b"}, metrics={"x": 1}
)
ENTRY = TreeEntry(
    b"a/\xff", FileType.FILE, Metadata(1, 2, 3, 4, 5, 6, 7, 8, xattrs={b"user.a": b"b"}),
    chunks=(ChunkRef(bytes(32), 9),), extents=((0, 9),), content_hash=bytes(32), layout=bytes(32),
)  # fmt: skip
TABLE = table_bytes(1, BlobRecord(bytes(32), 0, 40, 5, 0, 0, bytes(32)).pack(), bytes(32))
KEY_ID, KEY = keys.wrap(bytes(32), "A" * 52, label="", created="", random=os.urandom)
BUILDER = PackBuilder(PLAIN)
BUILDER.add(bytes(32), BlobKind.DATA, 3, Encoded(0, b"", b"\0\0\0\0abc"))

SNAPSHOT_DATA = b"backupd format 1: snapshot " + NAME.encode()
STORED_SNAPSHOT = bytes(encode_snapshot(SNAPSHOT, NAME, PLAIN))
SNAPSHOT_JSON = zstandard.ZstdDecompressor().decompress(
    bytes(unseal(PLAIN, STORED_SNAPSHOT, SNAPSHOT_DATA))
)
ZSTD_BLOB = bytes(BlobEncoder().encode(framed(b"ab" * 350)).data)
DELTA_TABLE = b"\x04\2\0\1\2\0\4\4\0\0\0\x80\x80\x80\x80"  # no difference at all
DELTA = BlobHeader(3, b"", bytes(32)).pack() + DELTA_TABLE
DESCRIPTOR = Descriptor("0" * 32, True, ChunkingParameters()).to_json()


def parse_snapshot(data: bytes) -> object:
    return decode_snapshot(data, NAME, PLAIN)


def parse_amendment(data: bytes) -> object:
    return amended(SNAPSHOT, data, NAME, PLAIN)


def parse_tombstone(data: bytes) -> object:
    return decode_tombstone(data, "tombstones/x", PLAIN)


PARSERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "tree": (lambda data: list(decode_tree(data)), encode_entry(ENTRY) * 2),
    "entry": (decode_entry, encode_entry(ENTRY)),
    "chunk list": (lambda data: list(decode_chunk_list(data)), encode_chunk_list(ENTRY.chunks) * 3),
    "table": (parse_all_of_table, TABLE),
    "index": (parse_all_of_index, index_bytes([PackTable(bytes(32), 99, TABLE)] * 2)),
    "pack": (parse_pack, bytes(BUILDER.finish().data)),
    "blob": (lambda data: BlobDecoder().decode(data, 700), ZSTD_BLOB),
    "delta": (lambda data: BlobDecoder().decode(data, 8, lambda name: bytes(8)), DELTA),
    "descriptor": (lambda data: parse_descriptor(data, "here"), DESCRIPTOR),
    "key": (lambda data: keys.describe(data, KEY_ID), KEY),
    "snapshot": (parse_snapshot, STORED_SNAPSHOT),
    "snapshot past its seal": (packed(parse_snapshot, NAME), SNAPSHOT_JSON),
    "amendment past its seal": (packed(parse_amendment, NAME), b'{"labels":{"a":"b"}}'),
    "snapshot past its seal, unpacked": (
        resealed(parse_snapshot, SNAPSHOT_DATA),
        zstandard.ZstdCompressor().compress(SNAPSHOT_JSON),
    ),
    "tombstone": (
        resealed(parse_tombstone, b"backupd format 1: tombstone"),
        json.dumps({"marked": 1.5, "packs": ["00" * 32]}).encode(),
    ),
}
