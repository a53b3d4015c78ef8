"""Trees as bytes: one JSON object a line, in path order, cut into blobs at steady places.

JSON, because it can still be read in ten years with anything; a line an entry, because then a
tree of any length is read in bounded memory. Cuts depend on the paths alone, so that a change
of one file leaves the other tree blobs as they were.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from backupd.codec.blob import ID_SIZE, MAX_CHUNK
from backupd.errors import DamagedError
from backupd.repository.tree import ChunkRef, FileType, Metadata, TreeEntry

# A tree blob ends after a path whose CRC-32 is a multiple of this, in the mean every 1,024
# entries, but not before the least and always at the most bytes.
_CUT_EVERY = 1024
_LEAST_BYTES = 64 * 1024
_MOST_BYTES = 4 << 20
# Up to so many chunks are named in the entry itself; more stand in a chunk list's own blob.
INLINE_CHUNKS = 4
_LIST_RECORD = ID_SIZE + 4

_quote = json.encoder.encode_basestring_ascii


def _text(key: str, raw: bytes) -> str:
    """A path as text where it is UTF-8, else as base64 under the key with `64` behind it."""
    try:
        return f'"{key}":{_quote(raw.decode())}'
    except UnicodeDecodeError:
        return f'"{key}64":"{base64.b64encode(raw).decode()}"'


def _take_bytes(value: dict[str, Any], key: str) -> bytes:
    text = value.get(key)
    if text is not None:
        if not isinstance(text, str):
            raise DamagedError("a tree entry is malformed")
        return text.encode()
    return base64.b64decode(value.get(key + "64", ""), validate=True)


def encode_entry(entry: TreeEntry) -> bytes:
    """One line, with its newline."""
    meta = entry.metadata
    # Written out, as a JSON encoder over a dictionary takes thrice as long, a file.
    line = (
        f'{{"type":"{entry.type.value}",{_text("path", entry.path)},"mode":{meta.mode},'
        f'"uid":{meta.uid},"gid":{meta.gid},"user":{_quote(meta.user)},'
        f'"group":{_quote(meta.group)},"mtime":{meta.mtime_ns},"ctime":{meta.ctime_ns},'
        f'"inode":{meta.inode},"device":{meta.device},"size":{meta.size_bytes}'
    )
    if meta.xattrs:
        xattrs = ",".join(
            f'"{base64.b64encode(name).decode()}":"{base64.b64encode(data).decode()}"'
            for name, data in sorted(meta.xattrs.items())
        )
        line += f',"xattrs":{{{xattrs}}}'
    if entry.link:
        line += f",{_text('link', entry.link)}"
    if entry.chunks:
        chunks = ",".join(f'["{ref.blob_id.hex()}",{ref.size_bytes}]' for ref in entry.chunks)
        line += f',"chunks":[{chunks}]'
    if entry.chunk_list:
        line += f',"list":"{entry.chunk_list.hex()}"'
    if entry.extents:
        extents = ",".join(f"[{offset},{size}]" for offset, size in entry.extents)
        line += f',"extents":[{extents}]'
    if entry.content_hash:
        line += f',"blake3":"{entry.content_hash.hex()}"'
    if entry.layout:
        line += f',"layout":"{entry.layout.hex()}"'
    return f"{line}}}\n".encode()


def _id(text: str) -> bytes:
    raw = bytes.fromhex(text)
    if len(raw) != ID_SIZE:
        raise DamagedError("a tree entry is malformed")
    return raw


def _chunk(name: str, size: int) -> ChunkRef:
    if not 0 <= size <= MAX_CHUNK:
        raise DamagedError("a tree entry names a chunk of impossible length")
    return ChunkRef(_id(name), int(size))


def _extent(offset: int, size: int) -> tuple[int, int]:
    if offset < 0 or size < 0:
        raise DamagedError("a tree entry is malformed")
    return int(offset), int(size)


def decode_entry(line: bytes) -> TreeEntry:
    """The entry of one line. Raises `DamagedError`."""
    try:
        return entry_of(json.loads(line))
    except (ValueError, RecursionError):
        raise DamagedError("a tree entry is malformed") from None


def decode_values(blob: bytes) -> list[dict[str, Any]]:
    """The JSON objects of a tree blob's lines, unchecked. Raises `DamagedError`."""
    # One call for all lines takes half the time of one for each; a line holds no raw newline.
    try:
        values = json.loads(b"[" + blob.rstrip(b"\n").replace(b"\n", b",") + b"]")
    except (ValueError, RecursionError):
        raise DamagedError("a tree entry is malformed") from None
    if not all(isinstance(value, dict) for value in values):
        raise DamagedError("a tree entry is malformed")
    return values  # type: ignore[no-any-return]


def path_of(value: dict[str, Any]) -> bytes:
    """The path of an entry's JSON object. Raises `DamagedError`."""
    try:
        return _take_bytes(value, "path")
    except (ValueError, TypeError):
        raise DamagedError("a tree entry is malformed") from None


def entry_of(value: dict[str, Any]) -> TreeEntry:
    """The entry of a JSON object. Raises `DamagedError`."""
    try:
        get = value.get
        xattrs = {
            base64.b64decode(name): base64.b64decode(data)
            for name, data in get("xattrs", _NOTHING).items()
        }
        metadata = Metadata(
            int(value["mode"]),
            int(value["uid"]),
            int(value["gid"]),
            int(value["mtime"]),
            int(value["ctime"]),
            int(value["inode"]),
            int(value["device"]),
            int(value["size"]),
            str(get("user", "")),
            str(get("group", "")),
            xattrs,
        )
        return TreeEntry(
            _take_bytes(value, "path"),
            _TYPES[value["type"]],
            metadata,
            _take_bytes(value, "link") if "link" in value or "link64" in value else b"",
            tuple([_chunk(name, size) for name, size in get("chunks", ())]),
            _id(value["list"]) if "list" in value else b"",
            tuple([_extent(at, size) for at, size in get("extents", ())]),
            _id(value["blake3"]) if "blake3" in value else b"",
            _id(value["layout"]) if "layout" in value else b"",
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise DamagedError("a tree entry is malformed") from None


_NOTHING: dict[str, str] = {}
_TYPES = {kind.value: kind for kind in FileType}


class TreeCutter:
    """Gathers encoded entries into tree blobs."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._size = 0

    def add(self, path: bytes, line: bytes) -> bytes | None:
        """Add an entry's line; a whole blob's bytes where one ends here."""
        self._lines.append(line)
        self._size += len(line)
        steady = self._size >= _LEAST_BYTES and zlib.crc32(path) % _CUT_EVERY == 0
        if steady or self._size >= _MOST_BYTES:
            return self.rest()
        return None

    def rest(self) -> bytes:
        """What is left, empty where nothing is."""
        blob = b"".join(self._lines)
        self._lines.clear()
        self._size = 0
        return blob


def decode_tree(blob: bytes | bytearray | memoryview) -> Iterator[TreeEntry]:
    """The entries of one tree blob. Raises `DamagedError`."""
    for value in decode_values(bytes(blob)):
        yield entry_of(value)


def encode_chunk_list(chunks: Iterable[ChunkRef]) -> bytes:
    """A chunk list's bytes: id and plain length (4, little-endian) of each chunk."""
    return b"".join(ref.blob_id + ref.size_bytes.to_bytes(4, "little") for ref in chunks)


def decode_chunk_list(plain: bytes | bytearray | memoryview) -> Iterator[ChunkRef]:
    """The chunks of a list. Raises `DamagedError`."""
    view = memoryview(plain)
    if len(view) % _LIST_RECORD:
        raise DamagedError("a chunk list is cut short")
    for at in range(0, len(view), _LIST_RECORD):
        size = int.from_bytes(view[at + ID_SIZE : at + _LIST_RECORD], "little")
        if size > MAX_CHUNK:
            raise DamagedError("a chunk list names a chunk of impossible length")
        yield ChunkRef(bytes(view[at : at + ID_SIZE]), size)
