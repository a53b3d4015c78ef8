"""A repository that cuts smaller than backupd does by itself keeps whole tensors all the same."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from tests.support.world import CHUNKING, make_world


def test_tensors_longer_than_the_longest_chunk_are_stored_whole(tmp_path: Path) -> None:
    world = make_world(tmp_path, size=1 << 16)
    tensor = np.random.default_rng(1).standard_normal(100_000).astype("<f4").tobytes()
    assert len(tensor) > CHUNKING.max_size
    head = {"a": {"dtype": "F32", "shape": [100_000], "data_offsets": [0, len(tensor)]}}
    text = json.dumps(head).encode()
    content = struct.pack("<Q", len(text)) + text + tensor
    (world.model_path / "m.safetensors").write_bytes(content)
    world.snapshot()
    world.verify()
