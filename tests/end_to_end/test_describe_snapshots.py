"""What `show` says of how a snapshot is stored is what the index and the files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from backupd.operations.describe import METADATA, SnapshotStorage, describe
from backupd.operations.resolve import resolve
from backupd.repository.reader import BlobReader
from backupd.repository.records import BlobKind
from tests.rigs.command_line import CommandLine
from tests.support.checkpoints import bfloat16, records, trained, weights, write_safetensors
from tests.support.world import MODEL, World, make_world

TENSORS = {
    "layers.0.weight": weights(1, 2_000_000),
    "layers.0.bias": weights(2, 700),
    "layers.1.weight": bfloat16(weights(3, 300_000)),
    "optimizer.0.exp_avg": weights(4, 300_000),
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = make_world(tmp_path, size=4096)
    write_safetensors(made.model_path / "checkpoint-1/model.safetensors", TENSORS)
    made.snapshot()
    return made


def described(world: World, version: int, **options: object) -> SnapshotStorage:
    with world.open() as installation:
        return describe(resolve(installation, f"{MODEL}@v{version}"), **options)  # type: ignore[arg-type]


def test_all_that_was_stored_is_accounted_for(world: World) -> None:
    found = described(world, 1)
    stored = records(world)
    assert found.total.stored_bytes == sum(record.sealed_size for record in stored)
    assert sum(kind.storage.size_bytes for kind in found.kinds) == found.total.size_bytes
    rounding = len(found.kinds) * 5
    by_kind = sum(kind.storage.stored_bytes for kind in found.kinds)
    assert abs(by_kind - found.total.stored_bytes) <= rounding
    [metadata] = [kind for kind in found.kinds if kind.kind == METADATA]
    others = [record for record in stored if record.kind != BlobKind.DATA]
    assert metadata.storage.stored_bytes == sum(record.sealed_size for record in others)


def test_files_have_their_size_and_kinds_that_of_their_tensors(world: World) -> None:
    found = described(world, 1, most_files=None)
    for file in found.files:
        path = world.model_path / file.path.decode()
        assert file.storage.size_bytes == path.stat().st_size
    assert len(found.files) == found.file_count
    kinds = {kind.kind: kind for kind in found.kinds if kind.container == "safetensors"}
    assert {name: (kind.count, kind.storage.size_bytes) for name, kind in kinds.items()} == {
        "f32": (2, 8_002_800),
        "bf16": (1, 600_000),
        "f32 exp_avg": (1, 1_200_000),
        "rest": (1, kinds["rest"].storage.size_bytes),
    }
    assert set(kinds["bf16"].storage.plain) == {"planes"}


def test_the_files_that_took_most_come_first_and_the_rest_is_counted(world: World) -> None:
    found = described(world, 1, most_files=3)
    assert found.files[0].path == b"checkpoint-1/model.safetensors"
    taken = [file.storage.stored_bytes for file in found.files]
    assert taken == sorted(taken, reverse=True)
    assert len(found.files) == 3 < found.file_count


def test_what_the_snapshot_before_holds_is_shared_and_what_moved_is_a_delta(world: World) -> None:
    moved = {**TENSORS, "layers.0.weight": trained(TENSORS["layers.0.weight"], 1)}  # type: ignore[arg-type]
    write_safetensors(world.model_path / "checkpoint-2/model.safetensors", moved)
    world.snapshot()
    found = described(world, 2, tensors=True)
    [file] = [file for file in found.files if file.path == b"checkpoint-2/model.safetensors"]
    tensors = {tensor.name: tensor for tensor in file.tensors}
    assert set(tensors["layers.0.weight"].storage.plain) == {"delta"}
    assert tensors["layers.0.weight"].base == f"{MODEL}@v2: checkpoint-1/model.safetensors"
    assert set(tensors["optimizer.0.exp_avg"].storage.plain) == {"shared"}
    assert tensors["optimizer.0.exp_avg"].storage.ratio is None
    assert found.total.plain["shared"] > 9_000_000
    before = sum(record.sealed_size for record in records(world))
    assert described(world, 1).total.stored_bytes + found.total.stored_bytes == before


def test_a_base_in_an_older_snapshot_is_named(world: World) -> None:
    folder = world.model_path
    (folder / "checkpoint-1").rename(folder / "checkpoint-2")
    moved = {**TENSORS, "layers.0.weight": trained(TENSORS["layers.0.weight"], 1)}  # type: ignore[arg-type]
    write_safetensors(folder / "checkpoint-2/model.safetensors", moved)
    world.snapshot()
    [file] = [file for file in described(world, 2, tensors=True).files if file.tensors]
    assert file.tensors[0].base == f"{MODEL}@v1: checkpoint-1/model.safetensors"


def test_the_same_file_twice_is_stored_once(world: World) -> None:
    data = weights(9, 200_000).tobytes()
    for name in ("a.dat", "b.dat"):
        (world.model_path / name).write_bytes(data)
    world.snapshot()
    files = {file.path: file.storage for file in described(world, 2, most_files=None).files}
    assert files[b"a.dat"].stored_bytes > 0
    assert (files[b"b.dat"].plain, files[b"b.dat"].stored_bytes) == ({"shared": len(data)}, 0)


def test_no_data_is_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {record.blob_id: record.kind for record in records(world)}
    read: set[int] = set()
    original = BlobReader.read

    def noted(reader: BlobReader, blob_id: bytes) -> object:
        read.add(kinds[blob_id])
        return original(reader, blob_id)

    monkeypatch.setattr(BlobReader, "read", noted)
    described(world, 1, tensors=True)
    assert BlobKind.TREE in read
    assert BlobKind.DATA not in read


def test_show_tells_it_in_80_columns_and_as_a_document(tmp_path: Path) -> None:
    backupd = CommandLine(tmp_path / "home", in_process=True)
    backupd.home.mkdir()
    name = "model.decoder.layers.0.self_attention.q_proj.weight"
    for step in (1, 2):
        values = trained(weights(1, 90_000), step)
        write_safetensors(tmp_path / f"llama/checkpoint-{step}/model.safetensors", {name: values})
    backupd.ok("quickstart", tmp_path / "llama", "--once")
    shown = backupd.ok("show", "llama@v1", COLUMNS="80").out
    # The folder is the test's own, as long as it happens to be, and a path is never cut.
    told = [line for line in shown.splitlines() if not line.startswith("folder ")]
    assert max(map(len, told)) <= 80
    assert "safetensors f32" in shown
    assert name not in shown
    verbose = backupd.ok("show", "llama@v1", "-v").out
    assert name in verbose
    assert "its differences are from llama@v1: checkpoint-1/model.safetensors" in verbose
    storage = backupd.ok("show", "llama@v1", "--json").document["storage"]
    assert storage["file_count"] == 2
    total = sum(method["size_bytes"] for method in storage["total"]["methods"].values())
    assert total == storage["total"]["size_bytes"]
    assert {method for file in storage["files"] for method in file["methods"]} >= {
        "planes",
        "delta",
    }
