"""The previous snapshot of a model, gone through beside a scan of its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from backupd.capture.folders import shown
from backupd.capture.scan import Scan, Scanned, Skipped
from backupd.errors import BackupdError, DamagedError, ObjectMissingError
from backupd.operations.heads import Head
from backupd.operations.tree_cache import TreeCache
from backupd.policy.history import Ancestry, extended
from backupd.repository.index import Index
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.repository import Repository
from backupd.repository.snapshots import SnapshotName, StoredSnapshot
from backupd.repository.tree import FileType, TreeEntry
from backupd.repository.tree_codec import decode_values, entry_of, path_of

if TYPE_CHECKING:
    from backupd.operations.bases import BaseTable

# Snapshots that are read in search of one of the same scheme; each costs a request.
_LOOKED_AT = 20


def _read(
    repository: Repository, name: SnapshotName, note: Callable[[str], None]
) -> StoredSnapshot | None:
    """A snapshot that may have been forgotten or be on another target."""
    try:
        return repository.read_snapshot(name)
    except ObjectMissingError:
        return None
    except DamagedError as error:
        note(f"{repository.name}: {error.message}")
        return None


class PreviousEntry:
    """An entry of the previous snapshot and the line it stands in; decoded when asked for."""

    __slots__ = ("_entry", "_value", "line", "path")

    def __init__(self, value: dict[str, Any], line: bytes) -> None:
        self.path = path_of(value)
        self.line = line
        self._value = value
        self._entry: TreeEntry | None = None

    @property
    def entry(self) -> TreeEntry:
        """The whole entry. Raises `DamagedError`."""
        if self._entry is None:
            self._entry = entry_of(self._value)
        return self._entry

    @property
    def type(self) -> FileType:
        """The entry's type."""
        return FileType(self._value["type"])

    @property
    def size_bytes(self) -> int:
        """The length of a file."""
        return int(self._value["size"])

    @property
    def is_container(self) -> bool:
        """Whether it is a file whose tensors are known."""
        return "layout" in self._value

    def matches(self, scanned: Scanned) -> bool:
        """Whether the path is, by its stat, what it was: then it need not be looked at again.

        The ctime moves with every change of content or attributes; where it was too young to be
        trusted it was kept as 0 and matches nothing.
        """
        value, stat = self._value, scanned.stat
        return (
            value.get("ctime") == stat.st_ctime_ns
            and value.get("mtime") == stat.st_mtime_ns
            and value.get("inode") == stat.st_ino
            and value.get("device") == stat.st_dev
            and value.get("mode") == stat.st_mode
            and value.get("type") == scanned.type.value
            and (scanned.type is not FileType.FILE or value.get("size") == stat.st_size)
            and (not scanned.link or self.entry.link == scanned.link)
        )


def same_but_for_inode(before: TreeEntry, now: TreeEntry) -> bool:
    """Whether two entries differ in nothing that a restore would give back."""
    return _bare(before) == _bare(now)


def _bare(entry: TreeEntry) -> TreeEntry:
    metadata = entry.metadata._replace(ctime_ns=0, inode=0, device=0)
    return entry._replace(metadata=metadata)


class Previous:
    """The newest snapshot of a model on a target, or the absence of one.

    `lost_entries` says, after `beside` has run through, whether a path of it is gone.
    """

    def __init__(
        self,
        repository: Repository,
        snapshot: StoredSnapshot | None,
        cache: TreeCache,
        note: Callable[[str], None],
    ) -> None:
        self.snapshot = snapshot
        self.lost_entries = False
        self.index: Index | None = None
        self._repository = repository
        self._cache = cache
        self._reader: BlobReader | None = None
        self._note = note

    @classmethod
    def newest(
        cls,
        repository: Repository,
        host: str,
        model: str,
        cache: TreeCache,
        note: Callable[[str], None],
        *,
        scheme: str,
        head: Head | None = None,
    ) -> Previous:
        """The newest snapshot of the scheme that can be read, else the newest of any.

        So a snapshot of the weights between two of everything costs the second no reading.
        Where the folder was switched to a version and no newer snapshot was taken since, that
        version counts as the newest.
        """
        folder = repository.secrets.model_folder(host, model)
        newest = None
        switched_to = head.version if head else 0
        for count, snapshot in enumerate(repository.newest_snapshots(folder, note), 1):
            if switched_to and head is not None and snapshot.record.version <= head.above:
                switched = _read(repository, SnapshotName(folder, switched_to), note)
                switched_to = 0
                if switched is not None and switched.record.scheme == scheme:
                    return cls(repository, switched, cache, note)
                newest = newest or switched
            newest = newest or snapshot
            if snapshot.record.scheme == scheme:
                return cls(repository, snapshot, cache, note)
            if count == _LOOKED_AT:
                break
        return cls(repository, newest, cache, note)

    def ancestry(self) -> Ancestry:
        """What a snapshot that has this one as its parent stands on."""
        if self.snapshot is None:
            return ()
        record = self.snapshot.record
        # Of an older snapshot nothing but its parent is known; its history was a line.
        known = record.ancestry or (((record.parent, 1),) if record.parent else ())
        return extended(known, record.version)

    def is_of(self, scheme: str) -> bool:
        """Whether there is a snapshot, and it is of that scheme."""
        return self.snapshot is not None and self.snapshot.record.scheme == scheme

    def beside(
        self, scan: Scan, keep_lost: Callable[[PreviousEntry], bool] = lambda entry: False
    ) -> Iterator[tuple[Scanned | Skipped, PreviousEntry | None]]:
        """Each scanned path with the previous entry of that path, where there is one.

        `keep_lost` is told of each entry that is gone, in its turn, and may say that it is not
        to count as lost.
        """
        self.lost_entries = False
        entries = self._entries()
        before = next(entries, None)
        for item in scan:
            while before is not None and before.path < item.path:
                self.lost_entries |= not keep_lost(before)
                before = next(entries, None)
            if before is not None and before.path == item.path:
                yield item, before
                if isinstance(item, Skipped):
                    self.lost_entries = True
                before = next(entries, None)
            else:
                yield item, None
        while before is not None:
            self.lost_entries |= not keep_lost(before)
            before = next(entries, None)

    def _entries(self) -> Iterator[PreviousEntry]:
        if self.snapshot is None:
            return
        try:
            for tree in self.snapshot.record.trees:
                blob = self._tree(tree)
                lines = blob.splitlines(keepends=True)
                for value, line in zip(decode_values(blob), lines, strict=True):
                    yield PreviousEntry(value, line)
        except BackupdError as error:
            self.lost_entries = True
            self._note(
                f"{self._repository.name}: the previous snapshot cannot be read "
                f"({error.message}); everything is read anew"
            )

    def _tree(self, tree_id: bytes) -> bytes:
        """A tree blob, from the state folder where it is kept, else from the repository."""
        kept = self._cache.get(tree_id)
        if kept is not None:
            return kept
        tree = bytes(self._blob_reader().read(tree_id))
        self._cache.put(tree_id, tree)
        return tree

    def add_bases(self, bases: BaseTable) -> None:
        """Tell the table of every container of the snapshot, the one written last as newest."""
        from backupd.capture.containers.stored import decode_layout
        from backupd.capture.cutting import segments_of
        from backupd.operations.bases import Place, pieces_of
        from backupd.repository.reachable import chunks_of

        containers = [e.entry for e in self._entries() if e.is_container]
        containers.sort(key=lambda entry: entry.metadata.mtime_ns)
        reader = self._blob_reader()
        for entry in containers:
            try:
                size = entry.metadata.size_bytes
                layout = decode_layout(reader.read(entry.layout), size)
                refs = list(chunks_of(reader, entry))
            except BackupdError as error:
                self._note(f"{shown(entry.path)}: cannot serve as a base: {error.message}")
                continue
            segments = []
            number = offset = 0
            for segment in segments_of(layout, size):
                # A run that is cut by content has as many chunks as fill it.
                first = number
                while number < len(refs) and offset < segment.offset + segment.size_bytes:
                    if segment.key:
                        place = Place(
                            entry.path,
                            offset,
                            refs[number].size_bytes,
                            entry.metadata.mtime_ns,
                        )
                        bases.add_place(refs[number].blob_id, place)
                    offset += refs[number].size_bytes
                    number += 1
                if segment.key and number - first == pieces_of(segment):
                    segments.append((segment, first))
            bases.add_file(entry.path, segments, [*refs], earlier=True)

    def _blob_reader(self) -> BlobReader:
        if self._reader is None:
            self.index = self._repository.load_index(self._note)
            self._reader = BlobReader(BlobFinder(self._repository, self.index, self._note))
        return self._reader
