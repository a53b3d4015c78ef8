"""Checkpoints of a training run in small, and what an index says of the deltas between them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backupd.codec.blob import Codec
from backupd.repository.reachable import chunks_of, entries_of
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.records import BlobRecord, parse_table
from backupd.repository.repository import Repository
from tests.support.world import World

Tensors = Mapping[str, NDArray[np.generic]]
_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "BF16",  # numpy has no bfloat16: the upper halves of float32
}


def weights(seed: int, count: int) -> NDArray[np.float32]:
    """Numbers spread as a layer's weights are."""
    return np.random.default_rng(seed).normal(scale=0.02, size=count).astype(np.float32)


def trained(values: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """The weights some steps of fine-tuning later: each moved by a thousandth of its size."""
    noise = np.random.default_rng(step).normal(scale=1e-3, size=values.shape)
    return (values * (1 + noise)).astype(np.float32)


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The numbers as bfloat16."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def safetensors(tensors: Tensors) -> bytes:
    """A safetensors file of the tensors; uint16 arrays are written as BF16."""
    header, at = {}, 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in tensors.values())


def write_safetensors(path: Path, tensors: Tensors) -> None:
    """Write a file of the tensors, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors(tensors))


def add_checkpoint(model: Path, *, count: int = 40_000) -> None:
    """A checkpoint of a small network in a model's folder, which `train` trains on."""
    values = weights(1, count)
    tensors = {"layer.weight": values, "layer.half": bfloat16(values)}
    write_safetensors(model / "checkpoint" / "model.safetensors", tensors)


def train(model: Path, step: int, *, count: int = 40_000) -> None:
    """Overwrite the checkpoint as some steps later: all tensors change slightly."""
    values = trained(weights(1, count), step)
    tensors = {"layer.weight": values, "layer.half": bfloat16(values)}
    write_safetensors(model / "checkpoint" / "model.safetensors", tensors)


def records_of(repository: Repository) -> list[BlobRecord]:
    """Every blob that an index object names."""
    index, damaged = repository.read_index_objects()
    assert not damaged
    return [
        record
        for pack in index.tables()
        for record in parse_table(memoryview(pack.table), pack.size_bytes)
    ]


def records(world: World, target: str = "disk") -> list[BlobRecord]:
    """Every blob of a world's target."""
    with world.open() as installation:
        return records_of(installation.repository(target))


def deltas(world: World, target: str = "disk") -> list[BlobRecord]:
    """The blobs that stand on a base."""
    return [record for record in records(world, target) if record.codec == Codec.DELTA]


def needed_by_snapshots(world: World, target: str = "disk") -> set[bytes]:
    """The ids that the trees of the listed snapshots name, without the bases of deltas."""
    with world.open() as installation:
        repository = installation.repository(target)
        index = repository.load_index(lambda message: None)
        reader = BlobReader(BlobFinder(repository, index, lambda message: None))
        found: set[bytes] = set()
        for snapshot in repository.list_snapshots().snapshots:
            found.update(snapshot.record.trees)
            for entry in list(entries_of(reader, snapshot.record)):
                found |= {entry.chunk_list, entry.layout} - {b""}
                found.update(ref.blob_id for ref in chunks_of(reader, entry))
    return found


def assert_no_chains(world: World, target: str = "disk") -> None:
    """Whatever a listed snapshot needs is there plain, or on a base that is there plain."""
    plain: set[bytes] = set()
    bases: dict[bytes, set[bytes]] = {}
    for record in records(world, target):
        if record.base_id:
            bases.setdefault(record.blob_id, set()).add(record.base_id)
        else:
            plain.add(record.blob_id)
    for blob_id in needed_by_snapshots(world, target):
        assert blob_id in plain or bases[blob_id] & plain, "a blob without its base"


def held_bytes(world: World, target: str = "disk") -> int:
    """What the bases take that no snapshot names itself."""
    needed = needed_by_snapshots(world, target)
    found = {record.blob_id: record for record in records(world, target)}
    held = {found[blob_id].base_id for blob_id in needed} - needed - {b""}
    return sum(found[blob_id].sealed_size for blob_id in held)
