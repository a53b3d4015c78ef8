"""Indices in the state folder, sorted and ready to be mapped, so that none is read twice.

One file a repository. The sealed index objects on the target remain the truth: the file is used
only while every object it was made from is still listed, its head and packs are verified when
it is opened, each blob's row when it is looked up, and deleting it costs nothing but time.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from blake3 import blake3

from backupd.codec.blob import ID_SIZE
from backupd.errors import DamagedError
from backupd.repository.index import Index
from backupd.repository.layout import INDEX, content_id_of

if TYPE_CHECKING:
    from backupd.repository.index_packs import PackColumns
    from backupd.repository.index_segment import Segment

# Fewer new blobs than this are read again each time, in less than it takes to write a file,
_WORTH_BLOBS = 50_000
_WORTH_SHARE = 16  # or less than this part of what is kept;
# unless they come from so many objects (each takes as long as some hundred blobs), or from more
# than one for so many blobs that are kept.
_WORTH_OBJECTS = 128
_BLOBS_PER_OBJECT = 8192

_MAGIC = b"backupd index cache 1\n".ljust(32, b"\0")
_COUNTS = struct.Struct("<4Q")
_DIGEST_SIZE = 32
_HEAD = len(_MAGIC) + _COUNTS.size + _DIGEST_SIZE
_PAGE = 4096
# Bytes of one item in each section. Those before `key` are verified when the file is opened.
_SECTIONS = (
    ("names", ID_SIZE),
    ("pack_ids", ID_SIZE),
    ("pack_sizes", 4),
    ("pack_order", 4),
    ("pack_keys", 8),
    ("key", 8),
    ("row", 48),
    ("check", 4),
    ("base_ids", ID_SIZE),
)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the sections lie: counts of items, and the offset in bytes of each by name."""

    names: int
    packs: int
    blobs: int
    bases: int
    at: dict[str, int]
    size_bytes: int

    @classmethod
    def of(cls, names: int, packs: int, blobs: int, bases: int) -> _Layout:
        counts = {"names": names, "key": blobs, "row": blobs, "check": blobs, "base_ids": bases}
        at, offsets = _HEAD, {}
        for section, item in _SECTIONS:
            at = -(-at // _PAGE) * _PAGE
            offsets[section] = at
            at += item * counts.get(section, packs)
        return cls(names, packs, blobs, bases, offsets, at)

    def counts(self) -> bytes:
        return _COUNTS.pack(self.names, self.packs, self.blobs, self.bases)


class StateIndexCache:
    """The cached index of one repository, in `folder`. See `IndexCache`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "index"
        self._covered = 0

    def load(self, names: Collection[str], reload: Callable[[], Index]) -> tuple[Index, set[str]]:
        """See `IndexCache.load`."""
        try:
            with self._path.open("rb") as file:
                found = _read(file, {_content_id(name): name for name in names})
        except (OSError, ValueError):
            found = None
        if found is None:
            self._covered = 0
            return Index(), set()
        packs, segment, covered = found
        self._covered = len(covered)
        return Index.kept(packs, segment, reload), covered

    def keep(self, index: Index, names: Collection[str], reload: Callable[[], Index]) -> Index:
        """See `IndexCache.keep`."""
        kept = index.kept_count
        few_blobs = len(index) - kept < max(_WORTH_BLOBS, kept // _WORTH_SHARE)
        fresh_objects = len(names) - self._covered
        if few_blobs and fresh_objects < max(_WORTH_OBJECTS, kept // _BLOBS_PER_OBJECT):
            if not kept:
                self.drop()  # what it was made from is gone, if there is one
            return index
        try:
            packs, segments = index.parts()
            written = self._write(packs, segments, names)
        except DamagedError:
            index.distrust()
            return index
        except (OSError, ValueError):
            return index
        if not written:
            return index
        mapped, covered = self.load(names, reload)
        return mapped if len(covered) == len(names) else index

    def drop(self) -> None:
        """See `IndexCache.drop`."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            return

    def _write(
        self, packs: PackColumns, segments: Sequence[Segment], names: Collection[str]
    ) -> bool:
        """Write the file anew; false where another process is at it. Raises `OSError`."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self._folder / "index.tmp"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(temporary, flags, 0o600), "r+b", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if os.fstat(file.fileno()).st_ino != temporary.stat().st_ino:
                return False  # another process has just put it in its place
            try:
                file.truncate(0)
                _write_sections(file, packs, segments, [_content_id(name) for name in names])
                os.fsync(file.fileno())
                temporary.replace(self._path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        return True


def _content_id(name: str) -> bytes:
    found = content_id_of(name, INDEX)
    if found is None:
        raise ValueError(f"{name} is not an index object")
    return found


def _read(file: BinaryIO, names: dict[bytes, str]) -> tuple[PackColumns, Segment, set[str]] | None:
    """What the file holds, where it was made from some of these objects and nothing else."""
    size = os.fstat(file.fileno()).st_size
    head = file.read(_HEAD)
    if len(head) < _HEAD or not head.startswith(_MAGIC):
        return None
    counts = _COUNTS.unpack_from(head, len(_MAGIC))
    if max(counts) > size:
        return None
    layout = _Layout.of(*counts)
    if layout.size_bytes != size or not layout.blobs:
        return None
    view = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
    mapped = view.obj
    assert isinstance(mapped, mmap.mmap)
    # Look-ups go all over the file: reading ahead of each would read all of it.
    mapped.madvise(mmap.MADV_RANDOM)
    begin = layout.at["names"]
    stored_names = bytes(view[begin : begin + layout.names * ID_SIZE])
    covered = {stored_names[at : at + ID_SIZE] for at in range(0, len(stored_names), ID_SIZE)}
    if not covered <= names.keys():
        return None  # prune wrote others in their place
    digest = blake3(layout.counts()).update(view[begin : layout.at["key"]]).digest()
    if digest != head[-_DIGEST_SIZE:]:
        return None
    return (*_columns(view, layout), {names[name] for name in covered})


def _columns(view: memoryview, layout: _Layout) -> tuple[PackColumns, Segment]:
    import numpy as np

    from backupd.repository.index_packs import PackColumns
    from backupd.repository.index_segment import CHECK, KEY, ROW, Segment

    def column(name: str, kind: Any, count: int) -> Any:
        return np.frombuffer(view, kind, count, offset=layout.at[name])

    packs = PackColumns(
        column("pack_ids", np.uint8, layout.packs * ID_SIZE).reshape(-1, ID_SIZE),
        column("pack_sizes", "<u4", layout.packs),
        column("pack_order", "<u4", layout.packs),
        column("pack_keys", "<u8", layout.packs),
    )
    # An empty section at the end of the file has no byte to begin at.
    bases = column("base_ids", np.uint8, layout.bases * ID_SIZE) if layout.bases else np.empty(0)
    segment = Segment(
        column("key", KEY, layout.blobs),
        column("row", ROW, layout.blobs),
        bases.astype(np.uint8, copy=False).reshape(-1, ID_SIZE),
        column("check", CHECK, layout.blobs),
    )
    return packs, segment


def _write_sections(
    file: BinaryIO, packs: PackColumns, segments: Sequence[Segment], names: Sequence[bytes]
) -> None:
    import numpy as np

    from backupd.repository.index_segment import check_values, merged_blocks

    blobs = sum(segment.count for segment in segments)
    base_ids = np.concatenate([segment.base_ids for segment in segments])
    layout = _Layout.of(len(names), len(packs), blobs, len(base_ids))
    descriptor = file.fileno()
    os.truncate(descriptor, layout.size_bytes)
    hasher = blake3(layout.counts())
    end = layout.at["names"]
    for section, data in (
        ("names", np.frombuffer(b"".join(names), np.uint8)),
        ("pack_ids", packs.ids),
        ("pack_sizes", packs.sizes),
        ("pack_order", packs.order),
        ("pack_keys", packs.keys),
    ):
        at = layout.at[section]
        hasher.update(bytes(at - end))
        view = data.reshape(-1).view(np.uint8).data
        hasher.update(view)
        end = at + _write_at(descriptor, view, at)
    hasher.update(bytes(layout.at["key"] - end))
    done = 0
    for key, row in merged_blocks(segments):
        columns = {"key": key, "row": row, "check": check_values(key, row, base_ids)}
        for section, column in columns.items():
            at = layout.at[section] + done * column.itemsize
            _write_at(descriptor, column.view(np.uint8).data, at)
        done += len(key)
    if len(base_ids):
        _write_at(descriptor, base_ids.reshape(-1).data, layout.at["base_ids"])
    head = _MAGIC + layout.counts() + hasher.digest()
    _write_at(descriptor, memoryview(head), 0)


def _write_at(descriptor: int, data: memoryview, at: int) -> int:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], at + done)
    return done
