"""Every kind of container through a snapshot and back: well-formed, odd, and made to harm."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import (
    assert_no_chains,
    bfloat16,
    deltas,
    records,
    safetensors,
    trained,
    weights,
    write_safetensors,
)
from tests.support.world import World, make_world, scratch

GOLDEN = Path(__file__).parents[1] / "golden" / "containers"
SIZE = 200_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with scratch(tmp_path / "world") as root:
        yield make_world(root, size=1000)


def kept(world: World) -> None:
    """A snapshot is taken, gives everything back, and nothing is amiss."""
    assert not world.snapshot().notes
    world.verify()
    assert world.findings() == []
    assert_no_chains(world)


def test_every_container_and_every_cut_of_it_comes_back(world: World) -> None:
    """What is below 64 KiB is not looked into, so each file is followed by padding."""
    folder = world.model_path / "containers"
    # The index names shards that are not there.
    left = shutil.ignore_patterns("__pycache__", "*.index.json")
    shutil.copytree(GOLDEN, folder, ignore=left)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        # Under their own names these would be waited for, and left out as torn.
        large = folder / f"large-{path.name}.old"
        large.write_bytes(content + bytes(SIZE))
        cut = folder / f"cut-{path.name}.old"
        cut.write_bytes(content[: len(content) * 2 // 3] + bytes(SIZE))
        (folder / f"front-{path.name}.old").write_bytes(bytes(SIZE) + content)
    kept(world)


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


class Mark:
    """What would leave a mark where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.system, (f"touch {self.path}",)


def hostile(mark: Path) -> dict[str, bytes]:
    table = pickle.dumps({"weight": Mark(mark)}, protocol=2)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(200 << 20))
    overlap = {
        name: {"dtype": "F32", "shape": [SIZE // 4], "data_offsets": [0, SIZE]} for name in "ab"
    }
    text = json.dumps(overlap).encode()
    row = '"t%d":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}'
    million = ("{" + ",".join(row % (i, i, i + 1) for i in range(1_000_000)) + "}").encode()
    good = bytearray(zip_of({"archive/data.pkl": table, "archive/data/0": bytes(SIZE)}))
    lying = bytes(good).replace(struct.pack("<I", SIZE), struct.pack("<I", 0x7FFFFFFF))
    return {
        "length.safetensors": struct.pack("<Q", 1 << 63) + bytes(SIZE),
        "overlap.safetensors": struct.pack("<Q", len(text)) + text + bytes(SIZE),
        "million.safetensors": struct.pack("<Q", len(million)) + million + bytes(1_000_000),
        "bomb.pt": bomb.getvalue(),
        "payload.pt": bytes(good),
        "payload.pkl": table + bytes(SIZE),
        "lying.pt": lying,
        "lying.gguf": b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 1 << 62) + bytes(SIZE),
        "lying.npy": b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }".ljust(117)
        + b"\n"
        + bytes(SIZE),
    }


def test_what_is_made_to_harm_is_bytes_and_runs_nothing(world: World) -> None:
    mark = world.root / "mark"
    for name, content in hostile(mark).items():
        (world.model_path / f"{name}.old").write_bytes(content)
    kept(world)
    for name in hostile(mark):
        with (world.model_path / f"{name}.old").open("r+b") as file:
            file.seek(1000)
            file.write(b"changed")
    kept(world)
    assert not mark.exists()
    os.system(f"touch {mark}")
    assert mark.exists(), "the payload would not have been seen"


def mixed(step: int) -> dict[str, np.ndarray]:
    values = weights(3, 1_200_001)  # more than one piece of 4 MiB, the last one shorter
    if step:
        values = trained(values, step)
    return {
        "large": values,
        "bf16": bfloat16(values[:70_001]),
        "f16": values[:33_333].astype(np.float16),
        "f64": values[:20_000].astype(np.float64),
        "i64": (values[:20_000] * 1e6).astype(np.int64),
        "i8": (values[:90_001] * 1e3).astype(np.int8),
        "scalar": np.array(step, np.int64),
        "empty": np.zeros((0, 7), np.float32),
        "frozen": weights(4, 50_000),
    }


def test_tensors_of_all_kinds_and_odd_sizes_become_deltas(world: World) -> None:
    for step in range(3):
        write_safetensors(world.model_path / f"checkpoint-{step}" / "m.safetensors", mixed(step))
        kept(world)
    found = deltas(world)
    assert {record.plain_size for record in found} >= {4 << 20, 1_200_001 * 4 - (4 << 20)}
    frozen = [record for record in records(world) if record.plain_size == 200_000]
    assert len(frozen) == 1


def test_a_tensor_that_moves_to_another_shard_finds_its_base(world: World) -> None:
    before, after = mixed(0), mixed(1)
    names = list(before)
    shards = ([*names[:4]], [*names[4:]])
    for number, chosen in enumerate(shards):
        path = world.model_path / f"model-{number}.safetensors"
        path.write_bytes(safetensors({name: before[name] for name in chosen}))
    kept(world)
    for number, chosen in enumerate((names[1:], names[:1])):
        path = world.model_path / f"part-{number}.safetensors"
        path.write_bytes(safetensors({name: after[name] for name in chosen}))
        (world.model_path / f"model-{number}.safetensors").unlink()
    kept(world)
    assert 4 << 20 in {record.plain_size for record in deltas(world)}


def test_each_rank_finds_the_base_of_its_own(world: World) -> None:
    """All ranks' files have the same tensors by name; what differs is in which file they are."""
    for step in range(2):
        for rank in range(3):
            values = weights(100 + rank, 60_000)
            tensors = {"exp_avg_sq": trained(values, 10 * rank + step) if step else values}
            folder = world.model_path / f"global_step{step * 50}"
            write_safetensors(folder / f"optim_rank_{rank}.safetensors", tensors)
            (folder / f"rng_state_{rank}.pth").write_bytes(
                zip_of({"rng/data.pkl": b"\x80\x02}.", "rng/data/0": bytes([rank]) * 5000})
            )
        kept(world)
    found = deltas(world)
    assert len(found) == 3 and len({record.base_id for record in found}) == 3


def test_the_same_tensor_twice_is_stored_once(world: World) -> None:
    values = weights(5, 500_000)
    for name in ("a", "b"):
        write_safetensors(world.model_path / f"{name}.safetensors", {f"{name}.w": values})
    kept(world)
    for name in ("a", "b"):
        later = {f"{name}.w": trained(values, 1)}
        write_safetensors(world.model_path / f"{name}.safetensors", later)
    kept(world)
    large = [record for record in records(world) if record.plain_size == 2_000_000]
    assert len(large) == 2 and len(deltas(world)) == 1
