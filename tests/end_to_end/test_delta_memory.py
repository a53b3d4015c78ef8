"""What a snapshot and a restore take of memory does not grow with the model."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from backupd.config.settings import LocalTarget
from backupd.operations.setup import initialise
from tests.support.checkpoints import deltas, trained, weights
from tests.support.measured import peak_bytes
from tests.support.world import World, scratch

MIB = 1 << 20
TENSOR = 16 * MIB
REAL = 64 * MIB


def write_model(path: Path, size: int, step: int) -> None:
    """A safetensors file of some real tensors, and then zeros up to `size`, grown sparsely.

    The last byte of each tensor of zeros is written, so that no extent of the file is left out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    count = size // TENSOR
    header = {
        f"layer.{number}.weight": {
            "dtype": "F32",
            "shape": [TENSOR // 4],
            "data_offsets": [number * TENSOR, (number + 1) * TENSOR],
        }
        for number in range(count)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    values = weights(1, TENSOR // 4)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for number in range(REAL // TENSOR):
            tensor = trained(np.roll(values, number), step) if step else np.roll(values, number)
            file.write(tensor.data)
        file.truncate(8 + len(text) + count * TENSOR)
        # Blocks without data, which are no holes: so they are read, and the file is a container.
        os.posix_fallocate(file.fileno(), 0, 8 + len(text) + count * TENSOR)


def peaks(root: Path, size: int) -> dict[str, int]:
    with scratch(root):
        root.mkdir()
        world = World(root, {"disk": LocalTarget("disk", root / "repo")})
        with world.open() as installation:
            initialise(installation)
        found = {}
        write_model(world.model_path / "checkpoint-1" / "model.safetensors", size, 0)
        found["snapshot"] = peak_bytes(world, "snapshot")
        (world.model_path / "checkpoint-1").rename(world.model_path / "checkpoint-2")
        write_model(world.model_path / "checkpoint-2" / "model.safetensors", size, 1)
        found["snapshot of deltas"] = peak_bytes(world, "snapshot")
        assert len(deltas(world)) >= REAL // (4 * MIB) - 1
        found["restore of deltas"] = peak_bytes(world, "restore")
    return found


def compare(root: Path, small_size: int, large_size: int) -> None:
    small, large = peaks(root, small_size), peaks(root, large_size)
    for verb in small:
        print(f"{verb}: {small[verb] / MIB:.0f} and {large[verb] / MIB:.0f} MiB")
    for verb in small:
        assert large[verb] < 400e6, f"{verb} takes {large[verb] / 1e6:.0f} MB"
        assert large[verb] < 1.1 * small[verb], f"{verb} takes more of a larger model"


def test_memory_does_not_grow_with_the_model() -> None:
    compare(Path("/dev/shm") / f"backupd-memory-{os.getpid()}", 200 * MIB, 1000 * MIB)


@pytest.mark.endurance
@pytest.mark.timeout(1800)
def test_a_model_of_twenty_gigabytes_takes_the_memory_of_one_of_two(tmp_path: Path) -> None:
    compare(tmp_path / "world", 2000 * MIB, 20_000 * MIB)
