"""Repositories of millions of blobs that take megabytes: real indices, trees and chunk lists,
packs that have a length and no content."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from backupd.config.settings import KeySettings, LocalTarget, Settings
from backupd.operations.installation import Installation, open_installation
from backupd.operations.setup import initialise
from backupd.repository.index_object import PackTable
from backupd.repository.layout import pack_name
from backupd.repository.records import RECORD, BlobKind
from backupd.repository.repository import Repository
from backupd.repository.snapshots import SnapshotRecord
from backupd.repository.tree import ChunkRef, FileType, Metadata, TreeEntry
from backupd.repository.tree_codec import TreeCutter, encode_chunk_list, encode_entry
from backupd.repository.writer import PackStream, Writer, put_index

TARGET = "disk"
CHUNK = 4 << 20
SEALED = 2_600_000  # what a chunk of bf16 weights takes
BLOBS_A_PACK = 8
PACKS_AN_INDEX = 4096
CHUNKS_A_FILE = 1000
FILES_A_SNAPSHOT = 50
DELTA_SHARE = 0.5
_MONTH = 30 * 86_400
Ids: TypeAlias = NDArray[np.uint8]


def open_world(root: Path, *, ahead: float = 0.0) -> Installation:
    """The installation below `root`, its clock `ahead` seconds of the machine's."""
    import time

    settings = Settings(
        source=root / "backupd.yaml",
        state_dir=root / "state",
        host="box",
        key=KeySettings(file=root / "key"),
        targets={TARGET: LocalTarget(TARGET, root / "repository")},
        policies={},
        models={},
    )
    return open_installation(settings, environment={}, clock=lambda: time.time() + ahead)


def ids_of(first: int, count: int) -> Ids:
    """The ids of blobs by number: 32 bytes each, the same whenever they are asked for."""
    # A counter hashed by a bijection (the finaliser of SplitMix64), once for each quarter.
    words = np.arange(first, first + count, dtype=np.uint64)[:, None] * np.uint64(4)
    words = words + np.arange(4, dtype=np.uint64)[None, :] + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    words ^= words >> np.uint64(31)
    return words.view(np.uint8).reshape(count, 32)


def make_tables(blobs: int, *, first: int = 0) -> Iterator[PackTable]:
    """Packs of eight chunks, half of the blobs deltas against the first half's."""
    dtype = np.dtype([("id", "u1", (32,)), ("n", "<u4", (3,)), ("kinds", "u1", (4,))])
    assert dtype.itemsize == RECORD.size
    size = BLOBS_A_PACK * SEALED + 4096
    for begin in range(first, first + blobs, BLOBS_A_PACK * PACKS_AN_INDEX):
        count = min(first + blobs - begin, BLOBS_A_PACK * PACKS_AN_INDEX)
        records = np.zeros(count, dtype)
        records["id"] = ids_of(begin, count)
        records["n"][:, 0] = np.arange(count) % BLOBS_A_PACK * SEALED
        records["n"][:, 1] = SEALED
        records["n"][:, 2] = CHUNK
        numbers = np.arange(begin, begin + count)
        delta = numbers % BLOBS_A_PACK >= BLOBS_A_PACK * DELTA_SHARE
        records["kinds"][:, 1] = 2 + delta
        records["kinds"][:, 2] = delta
        # Of each pack's blobs the later ones stand on the earlier.
        step = int(BLOBS_A_PACK * DELTA_SHARE)
        bases = ids_of(begin, count)[np.flatnonzero(delta) - step]
        raw, base_bytes = records.tobytes(), bases.tobytes()
        packs = ids_of((1 << 40) + begin, -(-count // BLOBS_A_PACK))
        at = base_at = 0
        for pack in packs:
            here = min(BLOBS_A_PACK, count - at)
            base_count = int(delta[at : at + here].sum())
            table = (
                here.to_bytes(4, "little")
                + raw[at * RECORD.size : (at + here) * RECORD.size]
                + base_bytes[base_at * 32 : (base_at + base_count) * 32]
            )
            at, base_at = at + here, base_at + base_count
            yield PackTable(pack.tobytes(), size, table)


def store_index(repository: Repository, tables: Iterator[PackTable]) -> None:
    """Store index objects of the packs."""
    batch: list[PackTable] = []
    for table in tables:
        batch.append(table)
        if len(batch) == PACKS_AN_INDEX:
            put_index(repository, batch)
            batch.clear()
    if batch:
        put_index(repository, batch)


def build_index_only(root: Path, blobs: int) -> None:
    """A repository whose index names `blobs` blobs, for opening and looking up."""
    root.mkdir(parents=True)
    with open_world(root) as installation:
        initialise(installation)
        store_index(installation.repository(TARGET), make_tables(blobs))


def build_with_snapshots(root: Path, blobs: int) -> None:
    """A repository of `blobs` blobs in packs that are there, nine tenths of them needed."""
    root.mkdir(parents=True)
    with open_world(root) as installation:
        initialise(installation)
        repository = installation.repository(TARGET)
        store_index(repository, _with_packs(root / "repository", make_tables(blobs)))
        needed = blobs * 9 // 10
        step = CHUNKS_A_FILE * FILES_A_SNAPSHOT
        for version, first in enumerate(range(0, needed, step), 1):
            count = min(step, needed - first)
            _store_snapshot(repository, version, first, count)


def _with_packs(root: Path, tables: Iterator[PackTable]) -> Iterator[PackTable]:
    for table in tables:
        path = root / pack_name(table.pack_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(table.size_bytes)
        yield table


def _store_snapshot(repository: Repository, version: int, first: int, count: int) -> None:
    index = repository.load_index(print)
    writer = Writer(repository, index, clock=lambda: 0.0, workers=1)
    stream = writer.stream()
    cutter = TreeCutter()
    for number, begin in enumerate(range(first, first + count, CHUNKS_A_FILE)):
        chunks = min(CHUNKS_A_FILE, first + count - begin)
        _add_file(stream, cutter, number, ids_of(begin, chunks))
    trees = (stream.store_bytes(BlobKind.TREE, cutter.rest()),)
    stream.close()
    writer.finish()
    writer.commit(SnapshotRecord("box", "m", version, float(version), b"/m", trees))


def _add_file(
    stream: PackStream,
    cutter: TreeCutter,
    number: int,
    ids: Ids,
) -> None:
    refs = [ChunkRef(blob_id.tobytes(), CHUNK) for blob_id in ids]
    chunk_list = stream.store_bytes(BlobKind.CHUNK_LIST, encode_chunk_list(refs))
    path = b"%06d" % number
    metadata = Metadata(0o100644, 0, 0, 0, 0, 0, 0, CHUNK * len(refs))
    cutter.add(path, encode_entry(TreeEntry(path, FileType.FILE, metadata, chunk_list=chunk_list)))


def later() -> float:
    """By how much a prune's clock must be ahead for every pack to be old."""
    return float(_MONTH)


def size_of(root: Path) -> int:
    """Bytes of all files below `root`."""
    return sum(
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(root)
        for name in names
    )
