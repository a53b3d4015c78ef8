"""The small sample model that `quickstart` makes for a newcomer who named no folder.

It has what real ones have: weights as safetensors, optimizer state, a link to the newest
checkpoint, small text files. The numbers are drawn from a fixed seed and mean nothing.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

NAME = "sample-model"
_LAYERS = 4
_WIDTH = 192
_SEED = 20261123
_STEPS = (100, 200)


def make_sample(folder: Path) -> None:
    """Writes the sample (about 8 MB) into `folder`, which must not be there yet."""
    import numpy as np  # 90 ms, which only a first quickstart needs

    generator = np.random.default_rng(_SEED)
    # Weights as an initialisation leaves them, moved a little by each checkpoint.
    shapes = {"embed.weight": (2048, _WIDTH)}
    for layer in range(_LAYERS):
        shapes[f"layers.{layer}.attention.weight"] = (3 * _WIDTH, _WIDTH)
        shapes[f"layers.{layer}.feed_forward.weight"] = (2 * _WIDTH, _WIDTH)
    weights = {
        name: generator.normal(0, 0.02, shape).astype("<f4") for name, shape in shapes.items()
    }
    folder.mkdir(parents=True)
    _write_json(folder / "config.json", {"layers": _LAYERS, "width": _WIDTH, "dtype": "float32"})
    (folder / "README.md").write_text("A sample made by `backupd quickstart`; delete it freely.\n")
    for step in _STEPS:
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir()
        weights = {
            name: tensor + generator.normal(0, 2e-5, tensor.shape).astype("<f4")
            for name, tensor in weights.items()
        }
        _write_safetensors(checkpoint / "model.safetensors", weights)
        np.save(checkpoint / "optimizer.npy", generator.normal(0, 1e-6, 65536).astype("<f4"))
        _write_json(checkpoint / "trainer_state.json", {"step": step, "loss": 4.1 - step / 200})
    os.symlink(f"checkpoint-{_STEPS[-1]}", folder / "latest")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _write_safetensors(path: Path, tensors: dict[str, Any]) -> None:
    """The format in one line: header length as u64, a JSON header, the tensors' bytes
    (https://github.com/huggingface/safetensors#format)."""
    header: dict[str, dict[str, Any]] = {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for tensor in tensors.values():
            file.write(memoryview(tensor).cast("B"))
