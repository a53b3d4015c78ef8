"""A layout as the bytes of a blob, so that what a file held is known without reading it again.

One JSON object: `kind`, `note`, and `tensors` as lists of name, dtype, shape, offset and size in
bytes, in the order of their offsets. Equal layouts give equal bytes, and so one blob.
"""

from __future__ import annotations

import json

from backupd.capture.containers.bounded import MalformedError
from backupd.capture.containers.regions import Layout, TensorRegion, make_layout
from backupd.errors import DamagedError


def encode_layout(layout: Layout) -> bytes:
    """The blob's bytes."""
    value = {
        "kind": layout.kind,
        "note": layout.note,
        "tensors": [[t.name, t.dtype, t.shape, t.offset, t.size_bytes] for t in layout.tensors],
    }
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()


def decode_layout(stored: bytes | bytearray | memoryview, file_size: int) -> Layout:
    """The layout of a file of `file_size` bytes. Raises `DamagedError`."""
    try:
        value = json.loads(bytes(stored))
        tensors = [
            TensorRegion(str(name), str(dtype), tuple(map(int, shape)), int(offset), int(size))
            for name, dtype, shape, offset, size in value["tensors"]
        ]
        return make_layout(str(value["kind"]), tensors, file_size, str(value["note"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, MalformedError):
        raise DamagedError("the stored layout of a file is malformed") from None
