"""Makes the files beside it with the libraries that people use, and `expected.json`, which says
what those libraries hold them to contain: for each file its kind, and for each tensor name, dtype,
shape and the SHA-256 of its bytes.

    pip install torch==2.13.0 safetensors==0.8.0 h5py==3.16.0 gguf==0.19.0 keras ml_dtypes numpy
    KERAS_BACKEND=torch python tests/golden/containers/make.py

The tests read what is stored here and need none of these.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import gguf
import h5py
import keras
import ml_dtypes
import numpy as np
import torch
import torch.distributed.checkpoint
from safetensors.torch import save_file

HERE = Path(__file__).parent
NAMES = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "f8_e4m3",
    torch.float8_e5m2: "f8_e5m2",
    torch.complex64: "c64",
    torch.complex128: "c128",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.uint16: "u16",
    torch.bool: "bool",
}
expected: dict[str, dict] = {}


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def row(name: str, dtype: str, shape, data: bytes) -> dict:
    digest = hashlib.sha256(data).hexdigest()
    return {"name": name, "dtype": dtype, "shape": list(shape), "sha256": digest}


def rows(tensors: dict[str, torch.Tensor]) -> list[dict]:
    return [
        row(name, NAMES[tensor.dtype], tensor.shape, bytes_of(tensor))
        for name, tensor in tensors.items()
        if tensor.numel()
    ]


def array_row(name: str, dtype: str, array: np.ndarray) -> dict:
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        array = array.T
    return row(name, dtype, array.shape, array.tobytes())


def expect(file: str, kind: str | None, tensors: list[dict] | None = None) -> None:
    expected[file] = {"kind": kind, "tensors": tensors or []}


def many_types() -> dict[str, torch.Tensor]:
    floats = torch.randn(3, 4)
    return {
        "weight": floats,
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 5),
        "größe.0": floats.to(torch.bfloat16),
        **{f"as.{name}": floats.to(dtype).clone() for dtype, name in NAMES.items()},
    }


def flatten(value, path: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {path: value}
    found = {}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, torch.Tensor | dict | list | tuple):
            found |= flatten(item, f"{path}.{key}" if path else str(key))
    return found


def make_torch() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": 50,
        "loss": 0.25,
        "types": many_types(),
    }
    torch.save(checkpoint, HERE / "checkpoint.pt")
    expect("checkpoint.pt", "pytorch", rows(flatten(checkpoint)))

    tensor = torch.randn(4, 3)
    torch.save(tensor, HERE / "tensor.pt")
    expect("tensor.pt", "pytorch", rows({"tensor": tensor}))
    torch.save({"w": tensor}, HERE / "legacy.pt", _use_new_zipfile_serialization=False)
    expect("legacy.pt", None)

    base = torch.randn(6, 4)
    odd = {
        "rows": [base[:2], base[2:]],
        "turned": torch.randn(3, 5).t(),
        "part": torch.randn(10)[2:5],
        "twice": (tensor, tensor),
        "sparse": torch.eye(3).to_sparse(),
        "random": np.random.default_rng(1).bit_generator.state,
    }
    torch.save(odd, HERE / "odd.pt")

    def flat(name, view):
        storage = torch.tensor([], dtype=view.dtype).set_(view.untyped_storage())
        return rows({name: storage})[0]

    expect(
        "odd.pt",
        "pytorch",
        [
            flat("rows.0", base),
            flat("turned", odd["turned"]),
            flat("part", odd["part"]),
            *rows({"twice.0": tensor}),
            *rows({"sparse.1.0": odd["sparse"].indices(), "sparse.1.1": odd["sparse"].values()}),
        ],
    )

    linear = torch.nn.Linear(4, 3)
    torch.save(linear, HERE / "module.pt")
    parameters = {f"_parameters.{name}": value for name, value in linear.named_parameters()}
    expect("module.pt", "pytorch", rows(parameters))
    torch.jit.save(torch.jit.script(linear), str(HERE / "script.pt"))
    expect("script.pt", "pytorch", rows(dict(linear.named_parameters())))

    state = {"a": torch.randn(4, 4), "b": torch.randn(7)}
    torch.distributed.checkpoint.save(
        {"m": state}, checkpoint_id=str(HERE / "distributed"), no_dist=True
    )
    (HERE / "distributed" / "__0_0.distcp").rename(HERE / "rank.distcp")
    (HERE / "distributed" / ".metadata").unlink()
    (HERE / "distributed").rmdir()
    numbered = {f"{number}.tensor": tensor for number, tensor in enumerate(state.values())}
    expect("rank.distcp", "pytorch-distributed", rows(numbered))

    tensors = many_types()
    del tensors["as.c128"]  # safetensors has no such type
    save_file(tensors, HERE / "model.safetensors", metadata={"format": "pt", "note": 'a "}{" b'})
    expect("model.safetensors", "safetensors", rows(tensors))
    index = {"metadata": {"total_size": 48}, "weight_map": {"weight": "model-1.safetensors"}}
    (HERE / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    expect("model.safetensors.index.json", None)


def make_numpy() -> None:
    random = np.random.default_rng(2)
    c_order = random.standard_normal((3, 4)).astype("f4")
    f_order = np.asfortranarray(random.standard_normal((3, 5)))
    big = np.arange(6, dtype=">i2").reshape(2, 3)
    brain = random.standard_normal(5).astype(ml_dtypes.bfloat16)
    arrays = {"c": c_order, "f": f_order, "big": big, "brain": brain, "scalar": np.float16(2)}
    np.savez(HERE / "arrays.npz", **arrays, words=np.array(["x", "yz"]), empty=np.zeros((0, 2)))
    expect(
        "arrays.npz",
        "npz",
        [
            array_row("c", "f32", c_order),
            array_row("f", "f64", f_order),
            array_row("big", "i16_be", big),
            array_row("brain", "bf16", brain),
            array_row("scalar", "f16", np.asarray(arrays["scalar"])),
        ],
    )
    np.savez_compressed(HERE / "compressed.npz", c=c_order)
    expect("compressed.npz", "npz")
    np.save(HERE / "plain.npy", c_order)
    expect("plain.npy", "npy", [array_row("plain", "f32", c_order)])
    np.save(HERE / "fortran.npy", f_order)
    expect("fortran.npy", "npy", [array_row("fortran", "f64", f_order)])
    for version in (2, 3):
        with (HERE / f"version{version}.npy").open("wb") as file:
            np.lib.format.write_array(file, big, version=(version, 0))
        expect(f"version{version}.npy", "npy", [array_row(f"version{version}", "i16_be", big)])
    np.save(HERE / "objects.npy", np.array([{"a": 1}, None]), allow_pickle=True)
    expect("objects.npy", None)
    np.save(HERE / "records.npy", np.zeros(3, dtype=[("a", "f4"), ("b", "i8")]))
    expect("records.npy", None)


def make_gguf() -> None:
    random = np.random.default_rng(3)
    plain = random.standard_normal((2, 64)).astype("f4")
    kinds = {
        "f32": gguf.GGMLQuantizationType.F32,
        "f16": gguf.GGMLQuantizationType.F16,
        "bf16": gguf.GGMLQuantizationType.BF16,
        "q8_0": gguf.GGMLQuantizationType.Q8_0,
        "q4_0": gguf.GGMLQuantizationType.Q4_0,
    }
    writer = gguf.GGUFWriter(HERE / "model.gguf", "llama")
    writer.add_custom_alignment(64)
    writer.add_token_list([f"token{number}" for number in range(40)])
    writer.add_token_scores([0.5] * 40)
    writer.add_bool("general.odd", True)
    found = []
    for name, kind in kinds.items():
        data = gguf.quants.quantize(plain, kind)
        writer.add_tensor(f"blk.0.{name}.weight", data, raw_dtype=kind)
        found.append(row(f"blk.0.{name}.weight", name, plain.shape, data.tobytes()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expect("model.gguf", "gguf", found)


def make_keras() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save(HERE / "model.keras")
    expect("model.keras", "keras")
    with h5py.File(HERE / "model.h5", "w") as file:
        file["weight"] = np.arange(6, dtype="f4")
    expect("model.h5", "hdf5")


torch.manual_seed(0)
make_torch()
make_numpy()
make_gguf()
make_keras()
(HERE / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")
