"""Recognises a container by its content and calls the parser that knows it."""

from __future__ import annotations

import re

from backupd.capture.containers.bounded import BoundedFile, MalformedError, ReadAt
from backupd.capture.containers.gguf import MAGIC as GGUF_MAGIC
from backupd.capture.containers.gguf import parse_gguf
from backupd.capture.containers.npy import MAGIC as NPY_MAGIC
from backupd.capture.containers.npy import parse_npy
from backupd.capture.containers.regions import Layout
from backupd.capture.containers.safetensors import looks_like_safetensors, parse_safetensors
from backupd.capture.containers.zip_archive import MAGIC as ZIP_MAGIC
from backupd.capture.containers.zip_container import parse_zip

_HEAD_BYTES = 16
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

# The data file of a TensorFlow checkpoint is tensors end to end, without a header; only its name
# tells (tensorflow/core/util/tensor_bundle/naming.cc). Its index is a LevelDB table.
_TENSORFLOW_DATA = re.compile(rb"\.data-\d{5}-of-\d{5}\Z")


def identify(read_at: ReadAt, size: int, name: bytes) -> Layout | None:
    """Return the layout of a file of `size` bytes, or None if it is opaque.

    `read_at` is called some few times and a few more for each member of a zip archive, for
    `READ_BUDGET_BYTES` at most. `name` is the file's last path component; it names the one
    tensor of an npy file and tells TensorFlow's data files, everything else is told by content.
    Whatever the content is, nothing is raised but what `read_at` raises: a malformed, truncated
    or lying file is opaque.
    """
    if size < _HEAD_BYTES:
        return None
    file = BoundedFile(read_at, size)
    try:
        return _parse(file, name)
    except MalformedError:
        return None


def _parse(file: BoundedFile, name: bytes) -> Layout | None:
    head = file.read(0, _HEAD_BYTES)
    if head.startswith(ZIP_MAGIC):
        return parse_zip(file)
    if head.startswith(GGUF_MAGIC):
        return parse_gguf(file)
    if head.startswith(NPY_MAGIC):
        stem = name.removesuffix(b".npy").decode("utf-8", "backslashreplace")
        return parse_npy(file, stem)
    if head.startswith(_HDF5_MAGIC):
        return Layout("hdf5")
    if looks_like_safetensors(head, file.size):
        return parse_safetensors(file)
    if _TENSORFLOW_DATA.search(name):
        return Layout("tensorflow")
    return None
