"""Writes one set of named tensors in the container formats that checkpoints come in.

Only writers live here; what is written is decided by `training`. Imported by nothing that times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Tensors = Mapping[str, torch.Tensor]


def write_safetensors(tensors: Tensors, path: Path) -> None:
    """Write `tensors` as one safetensors file, marked the way transformers marks its own."""
    from safetensors.torch import save_file

    save_file(dict(tensors), path, metadata={"format": "pt"})


def write_torch(tensors: Tensors, path: Path) -> None:
    """Write `tensors` with `torch.save`: a zip container with stored members."""
    torch.save(dict(tensors), path)


def write_npz(tensors: Tensors, path: Path) -> None:
    """Write `tensors` with `numpy.savez`: a zip container of `.npy` members."""
    import numpy

    numpy.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})


def write_hdf5(tensors: Tensors, path: Path) -> None:
    """Write `tensors` as contiguous HDF5 data sets, a group for each dotted part of a name."""
    import h5py

    with h5py.File(path, "w") as file:
        for name, tensor in tensors.items():
            file.create_dataset(name.replace(".", "/"), data=tensor.numpy())


def write_gguf(tensors: Tensors, path: Path) -> None:
    """Write `tensors` unquantised as GGUF, version 3."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "gpt2")
    writer.add_name("benchmark")
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


WRITERS: Mapping[str, Callable[[Tensors, Path], None]] = {
    "safetensors": write_safetensors,
    "pt": write_torch,
    "npz": write_npz,
    "h5": write_hdf5,
    "gguf": write_gguf,
}
