"""Whether one file is whole, by its content; by its name only where there is no content yet."""

from __future__ import annotations

from backupd.capture.containers.bounded import (
    BoundedFile,
    LimitError,
    MalformedError,
    ReadAt,
    TruncatedError,
)
from backupd.capture.containers.gguf import MAGIC as GGUF_MAGIC
from backupd.capture.containers.gguf import parse_gguf
from backupd.capture.containers.npy import MAGIC as NPY_MAGIC
from backupd.capture.containers.npy import npy_region
from backupd.capture.containers.regions import MAX_TENSORS
from backupd.capture.containers.safetensors import looks_like_safetensors, parse_safetensors
from backupd.capture.containers.zip_archive import MAGIC as ZIP_MAGIC
from backupd.capture.containers.zip_archive import read_archive
from backupd.capture.wholeness.hdf5 import MAGIC as HDF5_MAGIC
from backupd.capture.wholeness.hdf5 import judge_hdf5
from backupd.capture.wholeness.names import NEVER_EMPTY, PICKLE_SUFFIXES, SAVED_MODEL
from backupd.capture.wholeness.tensorflow import check_message
from backupd.capture.wholeness.verdict import WHOLE, Judgement, doubtful, torn

_HEAD_BYTES = 16
_PROBE_BYTES = 4096
_MAGICS = (ZIP_MAGIC, GGUF_MAGIC, NPY_MAGIC, HDF5_MAGIC)
_SPACE = b" \t\r\n"
_JSON_ENDS = {ord("{"): ord("}"), ord("["): ord("]")}


def judge_file(read_at: ReadAt, size: int, name: bytes) -> Judgement:
    """Whether a file of `size` bytes, its last path component `name`, is written to its end.

    Reads the structure and no content, some few times and for `READ_BUDGET_BYTES` at most.
    Raises what `read_at` raises.
    """
    file = BoundedFile(read_at, size)
    try:
        return _judge(file, name.lower())
    except LimitError:
        return WHOLE
    except TruncatedError as error:
        return torn(f"ends early: {error}")
    except MalformedError as error:
        return doubtful(f"is no whole file of its kind: {error}")


def _judge(file: BoundedFile, name: bytes) -> Judgement:
    if not file.size:
        return torn("is empty") if name.endswith(NEVER_EMPTY) else WHOLE
    if name.endswith(b".json"):
        return _judge_json(file)
    head = file.read(0, min(_HEAD_BYTES, file.size))
    if head.startswith(ZIP_MAGIC):
        return _judge_zip(file)
    if head.startswith(GGUF_MAGIC):
        parse_gguf(file)
        return WHOLE
    if head.startswith(NPY_MAGIC):
        return _judge_npy(file)
    if head.startswith(HDF5_MAGIC):
        return judge_hdf5(file)
    if looks_like_safetensors(head, file.size):
        parse_safetensors(file)
        return WHOLE
    if name in SAVED_MODEL[:1]:
        check_message(file)
        return WHOLE
    if name.endswith(NEVER_EMPTY):
        return _judge_unknown(file, head, name)
    return WHOLE


def _judge_zip(file: BoundedFile) -> Judgement:
    """Every archive in the file, as torch.distributed.checkpoint puts several end to end."""
    end, members = file.size, 0
    while end:
        archive = read_archive(file, end)
        end = archive.start
        members += 1 + len(archive.members)
        if members > MAX_TENSORS:
            raise LimitError("more archives than are read")
    return WHOLE


def _judge_npy(file: BoundedFile) -> Judgement:
    """One array; several in one file, objects and records are valid too, and not looked into."""
    try:
        npy_region(file, 0, file.size, "")
    except TruncatedError:
        raise
    except MalformedError:
        return WHOLE
    return WHOLE


def _judge_json(file: BoundedFile) -> Judgement:
    """An object or an array ends with its bracket; whatever else stands there is believed."""
    probe = min(_PROBE_BYTES, file.size)
    head = file.read(0, probe).lstrip(_SPACE)
    tail = file.read(file.size - probe, probe).rstrip(_SPACE)
    if head and _JSON_ENDS.get(head[0]) not in (None, tail[-1] if tail else None):
        return doubtful("is JSON that does not end")
    return WHOLE


def _judge_unknown(file: BoundedFile, head: bytes, name: bytes) -> Judgement:
    """A file named as a container, whose beginning is that of none."""
    if not any(file.read(0, min(_PROBE_BYTES, file.size))):
        # Under this name there is also raw data, such as token ids, whose first are often 0.
        judge = doubtful if name.endswith(b".bin") else torn
        return judge("begins with nothing but zeros")
    if name.endswith(b".safetensors") and (
        file.size < 10 or (head[8:9] == b"{" and int.from_bytes(head[:8], "little") > file.size - 8)
    ):
        return torn("ends within its header")
    if name.endswith(PICKLE_SUFFIXES) and head[0] == 0x80 and file.read(file.size - 1, 1) != b".":
        return doubtful("is a pickle that does not end")
    if any(file.size < len(magic) and magic.startswith(head) for magic in _MAGICS):
        return torn("ends within its header")
    return WHOLE
