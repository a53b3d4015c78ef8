"""torch's zip files: which tensor lies in which member.

`<archive>/data.pkl` names the tensors, `<archive>/data/<key>` holds a storage each
(torch/serialization.py, caffe2/serialize/inline_container.h). A storage with one tensor on it
becomes that tensor; one that several share, or that a tensor covers in part or in another
order, becomes one flat region named by the first of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from backupd.capture.containers.bounded import BoundedFile, MalformedError
from backupd.capture.containers.regions import (
    DATA_TYPES,
    OPAQUE,
    SMALLEST_OPAQUE_BYTES,
    TensorRegion,
    big_endian,
    tensor_bytes,
)
from backupd.capture.containers.torch_pickle import (
    MAX_OPCODES,
    MAX_PICKLE_BYTES,
    TensorTable,
    View,
    read_tensor_table,
)
from backupd.capture.containers.zip_archive import Member

_STORAGE_DTYPES = {
    "DoubleStorage": "f64",
    "FloatStorage": "f32",
    "HalfStorage": "f16",
    "BFloat16Storage": "bf16",
    "ComplexDoubleStorage": "c128",
    "ComplexFloatStorage": "c64",
    "LongStorage": "i64",
    "IntStorage": "i32",
    "ShortStorage": "i16",
    "CharStorage": "i8",
    "ByteStorage": "u8",
    "BoolStorage": "bool",
    "QInt8Storage": "i8",
    "QUInt8Storage": "u8",
    "QInt32Storage": "i32",
}
_DTYPES = {
    "float8_e4m3fn": "f8_e4m3",
    "float8_e4m3fnuz": "f8_e4m3fnuz",
    "float8_e5m2": "f8_e5m2",
    "float8_e5m2fnuz": "f8_e5m2fnuz",
    "float8_e8m0fnu": "f8_e8m0",
    "complex32": "c32",
    "uint64": "u64",
    "uint32": "u32",
    "uint16": "u16",
    # Those that have a typed storage too, should torch stop writing that.
    "float64": "f64",
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "complex128": "c128",
    "complex64": "c64",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "int8": "i8",
    "uint8": "u8",
    "bool": "bool",
}


def torch_root(members: Sequence[Member]) -> str | None:
    """Return the folder that torch's files lie in, with its slash, or None if they do not."""
    for member in members:
        root, slash, name = member.name.partition("/")
        if name == "data.pkl":
            return root + slash
    return None


def torch_regions(
    file: BoundedFile, members: Sequence[Member], root: str, most_opcodes: int = MAX_OPCODES
) -> tuple[list[TensorRegion], str, int]:
    """Return the regions of the storages below `root`, a note on what is not known of them, and
    how many of `most_opcodes` are left for other archives of the file.

    A pickle that is not understood costs the names: its storages are opaque regions then.
    """
    by_name = {member.name: member for member in members}
    note = ""
    try:
        pickled = by_name[f"{root}data.pkl"]
        table = read_tensor_table(_member_bytes(file, pickled), most_opcodes)
    except MalformedError as error:
        # How far it came is not told; no opcode is shorter than a byte.
        table = TensorTable((), {}, min(pickled.size_bytes, most_opcodes))
        note = f"names and types of its tensors are unknown: {error}"
    foreign = _is_big_endian(file, by_name.get(f"{root}byteorder"))
    views: dict[str, dict[View, str]] = {}
    for name, view in table.views:
        views.setdefault(view.storage.key, {}).setdefault(view, name or "tensor")
    regions = []
    prefix = f"{root}data/"
    for member in members:
        if not member.stored or not member.name.startswith(prefix):
            continue
        key = member.name.removeprefix(prefix)
        found = _region(member, key, views.get(key, {}), table)
        if found is None:
            if member.size_bytes < SMALLEST_OPAQUE_BYTES:
                continue
            found = f"data/{key}", OPAQUE, (member.size_bytes,)
        name, dtype, shape = found
        dtype = big_endian(dtype) if foreign else dtype
        regions.append(TensorRegion(name, dtype, shape, member.data_offset, member.size_bytes))
    return regions, note, most_opcodes - table.opcodes


def _region(
    member: Member, key: str, views: dict[View, str], table: TensorTable
) -> tuple[str, str, tuple[int, ...]] | None:
    """Return name, dtype and shape of the storage in `member`, or None if they do not fit it."""
    storage = table.storages.get(key)
    if storage is None:
        return None
    first = next(iter(views), None)
    dtype = _STORAGE_DTYPES.get(storage.type_name)
    if dtype is None and first is not None:
        # An untyped storage is what its tensors are; were they several, it is only bytes.
        names = {view.dtype_name for view in views}
        dtype = _DTYPES.get(first.dtype_name) if len(names) == 1 else None
    unit = 1 if storage.type_name == "UntypedStorage" else DATA_TYPES[dtype or OPAQUE].bits // 8
    if dtype is None or storage.elements * unit != member.size_bytes:
        return None
    name = views[first] if first is not None else f"data/{key}"
    if first is not None and len(views) == 1 and _is_whole(first):
        try:
            if tensor_bytes(dtype, first.shape) == member.size_bytes:
                return name, dtype, first.shape
        except MalformedError:
            return None
    elements, rest = divmod(member.size_bytes * 8, DATA_TYPES[dtype].bits)
    return None if rest else (name, dtype, (elements,))


def _is_whole(view: View) -> bool:
    """Whether the tensor's elements lie in its own order without gaps from the start on."""
    expected = 1
    for size, stride in zip(view.shape[::-1], view.strides[::-1], strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return view.offset == 0


def _member_bytes(file: BoundedFile, member: Member) -> bytes:
    if not member.stored:
        raise MalformedError("its table is compressed")
    if member.size_bytes > MAX_PICKLE_BYTES:
        raise MalformedError("its table is longer than is read")
    return file.read(member.data_offset, member.size_bytes)


def _is_big_endian(file: BoundedFile, member: Member | None) -> bool:
    if member is None or not member.stored or member.size_bytes != len(b"big"):
        return False
    return file.read(member.data_offset, member.size_bytes) == b"big"
