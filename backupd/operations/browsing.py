"""Snapshots as folders to look into: `MODEL/v3/...`, with `latest` beside the versions.

Nothing here knows of FUSE. A snapshot's list of files is read when somebody looks into it, and a
file's chunks when somebody reads them, each verified against its id. Of chunks and lists of
files the last ones are kept, so memory is bounded: see the constants.
"""

from __future__ import annotations

import stat
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from backupd.errors import DamagedError
from backupd.operations.catalog import ResolvedSnapshot, read_catalog
from backupd.operations.installation import Installation
from backupd.repository.reachable import chunks_of, entries_of, placed_chunks
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.repository import Repository
from backupd.repository.tree import FileType, TreeEntry

LATEST = b"latest"
# How long a listing of the targets is believed: new snapshots show by then.
_LISTING_SECONDS = 30.0
_KEPT_TREES = 4
_KEPT_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Attributes:
    """What stat(2) tells of one path; time in nanoseconds since the epoch."""

    mode: int
    size_bytes: int
    mtime_ns: int
    uid: int = 0
    gid: int = 0
    links: int = 1
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file's chunks by where they begin in it; what lies between them is holes."""

    size_bytes: int
    offsets: tuple[int, ...]
    blob_ids: tuple[bytes, ...]
    repository: str


class _Tree:
    """One snapshot's entries by path, and the names in each folder."""

    def __init__(self, snapshot: ResolvedSnapshot, reader: BlobReader) -> None:
        self.entries: dict[bytes, TreeEntry] = {}
        self.names: dict[bytes, list[bytes]] = {}
        for entry in entries_of(reader, snapshot.stored.record):
            self.entries[entry.path] = entry
            if entry.type is FileType.FOLDER:
                self.names.setdefault(entry.path, [])
            if entry.path:
                folder, _, name = entry.path.rpartition(b"/")
                self.names.setdefault(folder, []).append(name)

    def content_of(self, path: bytes) -> TreeEntry:
        """The entry, or of a hard link the one that it shares its content with."""
        entry = self.entries[path]
        return self.entries[entry.link] if entry.type is FileType.HARDLINK else entry


class SnapshotFolders:
    """All snapshots of an installation. Safe for several threads.

    Paths are bytes without a slash at either end; the root is empty. A path that is not there
    raises `FileNotFoundError`, one that cannot be read `DamagedError` or `TargetError`.
    """

    def __init__(
        self,
        installation: Installation,
        *,
        monotonic: Callable[[], float],
        note: Callable[[str], None],
    ) -> None:
        """`monotonic` is in seconds; `note` takes a sentence on what is mended on the way."""
        self._installation = installation
        self._monotonic = monotonic
        self._note = note
        self._lock = threading.RLock()
        self._listed_at = float("-inf")
        self._models: dict[bytes, dict[bytes, ResolvedSnapshot]] = {}
        self._trees: OrderedDict[str, _Tree] = OrderedDict()
        self._finders: dict[str, BlobFinder] = {}
        self._ids: frozenset[str] = frozenset()
        self._generation = 0
        self._readers = threading.local()
        self._chunks: OrderedDict[bytes, bytes] = OrderedDict()
        self._chunk_bytes = 0

    def attributes(self, path: bytes) -> Attributes:
        """What stat tells of a path."""
        snapshot, inner = self._find(path)
        if snapshot is None:
            if path.rpartition(b"/")[2] == LATEST and b"/" in path:
                return Attributes(stat.S_IFLNK | 0o777, len(self.link(path)), 0)
            return Attributes(stat.S_IFDIR | 0o555, 0, 0, links=2)
        tree = self._tree(snapshot)
        entry = _entry(tree, inner)
        held = tree.content_of(inner)
        kept = held.metadata
        size = len(held.link) if held.type is FileType.SYMLINK else kept.size_bytes
        folder = entry.type is FileType.FOLDER
        return Attributes(
            kept.mode, size, kept.mtime_ns, kept.uid, kept.gid, 2 if folder else 1, kept.xattrs
        )

    def names(self, path: bytes) -> list[bytes]:
        """The names in a folder. Raises `NotADirectoryError` where it is none."""
        snapshot, inner = self._find(path)
        if snapshot is None:
            models = self._listing()
            return list(models) if not path else [*models[path], LATEST]
        tree = self._tree(snapshot)
        _entry(tree, inner)
        if inner not in tree.names:
            raise NotADirectoryError(path)
        return tree.names[inner]

    def link(self, path: bytes) -> bytes:
        """What a symbolic link leads to. Raises `OSError` where it is none."""
        model, _, name = path.partition(b"/")
        if name == LATEST and model in self._listing():
            return list(self._listing()[model])[-1]
        snapshot, inner = self._find(path)
        entry = _entry(self._tree(snapshot), inner) if snapshot is not None else None
        if entry is None or entry.type is not FileType.SYMLINK:
            raise OSError(22, "not a symbolic link", path)
        return entry.link

    def open(self, path: bytes) -> OpenFile:
        """A file to `read` from. Raises `IsADirectoryError` where it is a folder."""
        snapshot, inner = self._find(path)
        if snapshot is None:
            raise IsADirectoryError(path)
        tree = self._tree(snapshot)
        _entry(tree, inner)
        entry = tree.content_of(inner)
        if entry.type is not FileType.FILE:
            raise IsADirectoryError(path)
        reader = self._reader(snapshot.repository)
        places = list(placed_chunks(entry, chunks_of(reader, entry)))
        return OpenFile(
            entry.metadata.size_bytes,
            tuple(offset for _, offset in places),
            tuple(ref.blob_id for ref, _ in places),
            snapshot.repository.name,
        )

    def read(self, file: OpenFile, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file."""
        size = max(0, min(size, file.size_bytes - offset))
        parts: list[bytes] = []
        at, end = offset, offset + size
        number = max(bisect_right(file.offsets, at) - 1, 0)
        while at < end and number < len(file.offsets):
            begin = file.offsets[number]
            if at < begin:
                parts.append(bytes(min(begin, end) - at))
                at = min(begin, end)
                continue
            chunk = self._chunk(file.repository, file.blob_ids[number])
            piece = chunk[at - begin : end - begin]
            parts.append(piece)
            at += len(piece)
            number += 1
        parts.append(bytes(end - at))
        return b"".join(parts)

    def _find(self, path: bytes) -> tuple[ResolvedSnapshot | None, bytes]:
        """The snapshot that a path lies in, and where in it; None above the snapshots."""
        model, _, rest = path.partition(b"/")
        versions = self._listing().get(model) if model else {}
        if versions is None:
            raise FileNotFoundError(path)
        if not rest or rest == LATEST:
            return None, b""
        version, _, inner = rest.partition(b"/")
        if version not in versions:
            raise FileNotFoundError(path)
        return versions[version], inner

    def _listing(self) -> dict[bytes, dict[bytes, ResolvedSnapshot]]:
        with self._lock:
            now = self._monotonic()
            if now - self._listed_at < _LISTING_SECONDS:
                return self._models
            catalog = read_catalog(self._installation)
            own = self._installation.settings.host
            hosts: dict[str, set[str]] = {}
            for item in catalog.snapshots:
                hosts.setdefault(item.info.model, set()).add(item.info.host)
            models: dict[bytes, dict[bytes, ResolvedSnapshot]] = {}
            for item in sorted(catalog.snapshots, key=lambda item: item.info.version):
                info = item.info
                bare = info.host == own or len(hosts[info.model]) == 1
                name = info.model if bare else f"{info.host}:{info.model}"
                models.setdefault(name.encode(), {})[f"v{info.version}".encode()] = item
            ids = frozenset(item.info.id for item in catalog.snapshots)
            if ids != self._ids:
                # An index from before does not know the packs of a new snapshot.
                self._ids = ids
                self._generation += 1
                self._finders.clear()
            self._models, self._listed_at = models, now
            return models

    def _tree(self, snapshot: ResolvedSnapshot) -> _Tree:
        with self._lock:
            key = snapshot.info.id
            tree = self._trees.pop(key, None)
            if tree is None:
                tree = _Tree(snapshot, self._reader(snapshot.repository))
            self._trees[key] = tree
            while len(self._trees) > _KEPT_TREES:
                self._trees.popitem(last=False)
            return tree

    def _chunk(self, repository: str, blob_id: bytes) -> bytes:
        with self._lock:
            chunk = self._chunks.pop(blob_id, None)
            if chunk is not None:
                self._chunks[blob_id] = chunk
                return chunk
        chunk = bytes(self._reader(self._installation.repository(repository)).read(blob_id))
        with self._lock:
            if blob_id not in self._chunks:
                self._chunk_bytes += len(chunk)
            self._chunks[blob_id] = chunk
            while self._chunk_bytes > _KEPT_BYTES and len(self._chunks) > 1:
                _, gone = self._chunks.popitem(last=False)
                self._chunk_bytes -= len(gone)
        return chunk

    def _reader(self, repository: Repository) -> BlobReader:
        """This thread's reader, with an index no older than the listing."""
        mine = self._readers.__dict__
        with self._lock:
            if mine.get("generation") != self._generation:
                mine.clear()
                mine["generation"] = self._generation
            reader: BlobReader | None = mine.get(repository.name)
            if reader is None:
                finder = self._finders.get(repository.name)
                if finder is None:
                    index = repository.load_index(self._note)
                    finder = BlobFinder(repository, index, self._note)
                    self._finders[repository.name] = finder
                reader = mine[repository.name] = BlobReader(finder)
            return reader


def _entry(tree: _Tree, path: bytes) -> TreeEntry:
    entry = tree.entries.get(path)
    if entry is None:
        raise FileNotFoundError(path)
    if entry.type is FileType.HARDLINK and entry.link not in tree.entries:
        raise DamagedError(f"a hard link leads to {entry.link!r}, which the snapshot does not hold")
    return entry
