"""Walking all that each snapshot needs: what is not there hurts the files that need it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from backupd.capture.folders import shown
from backupd.errors import ColdError, DamagedError, StoppedError
from backupd.operations.diagnosis import Diagnosis, Place
from backupd.operations.progress import Progress
from backupd.repository import layout
from backupd.repository.reachable import chunks_of, placed_chunks
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.records import BlobKind
from backupd.repository.repository import Repository
from backupd.repository.snapshots import StoredSnapshot
from backupd.repository.tree import FileType, TreeEntry
from backupd.repository.tree_codec import decode_tree
from backupd.repository.trees_ahead import with_trees_ahead

_THE_LIST = "(the list of files)"


def check_snapshots(
    repository: Repository,
    found: Diagnosis,
    *,
    also: Sequence[StoredSnapshot],
    progress: Progress,
    stop: threading.Event,
) -> None:
    """Everything that each snapshot needs is there; `also` are looked at though not listed."""
    listing = repository.list_snapshots(afresh=True)
    for name, why in listing.damaged.items():
        number = found.bad_objects[name] = found.find(name, why)
        found.hurts(number, f"version {int(name[-10:])} of a model", "")
    walk = _Walk(repository, found)
    progress.begin("check snapshots")
    for snapshot in with_trees_ahead(walk.reader, (*listing.snapshots, *also)):
        if stop.is_set():
            raise StoppedError("stopped; nothing was changed")
        walk.snapshot(snapshot)
        progress.advance(0, 1)
    found.snapshot_count = len(listing.snapshots)


class _Walk:
    """One walk; trees that were found whole are not read again."""

    def __init__(self, repository: Repository, found: Diagnosis) -> None:
        self._found = found
        self.reader = BlobReader(BlobFinder(repository, found.index, lambda message: None))
        self._whole_trees: set[bytes] = set()

    def snapshot(self, snapshot: StoredSnapshot) -> None:
        """One snapshot and all it needs."""
        name = f"{snapshot.record.model}@v{snapshot.record.version}"
        whole = True
        record = snapshot.record
        for number, tree in enumerate(record.all_trees):
            if tree not in self._whole_trees:
                if self._tree(tree, snapshot, name, of_model=number < len(record.trees)):
                    self._whole_trees.add(tree)
                else:
                    whole = False
        if whole:
            self._found.sound.add(snapshot.name.object_name())

    def _tree(self, tree: bytes, snapshot: StoredSnapshot, name: str, *, of_model: bool) -> bool:
        """One tree blob and all it names; whether nothing is wrong with any of it."""
        found = self._found
        if not found.needs(tree, name, _THE_LIST, kind=BlobKind.TREE):
            return False
        try:
            entries = list(decode_tree(bytes(self.reader.read(tree))))
        except ColdError as error:
            found.find(layout.PACKS, f"{name}: {error.message}", harmless=True)
            return True
        except DamagedError as error:
            found.blame(tree, error.message, name, _THE_LIST)
            found.fault(tree, kind=BlobKind.TREE)
            return False
        hurt = sum(
            not self._entry(entry, tree, snapshot, name, of_model=of_model) for entry in entries
        )
        return not hurt

    def _entry(
        self,
        entry: TreeEntry,
        tree: bytes,
        snapshot: StoredSnapshot,
        name: str,
        *,
        of_model: bool,
    ) -> bool:
        if entry.type is not FileType.FILE:
            return True
        found = self._found
        path = shown(entry.path) if of_model else f"{shown(entry.path)} (of the code)"
        record, chunk_list = snapshot.record, entry.chunk_list
        # What is kept of the code lies in no model's folder.
        file = (
            Place(record, entry.path, 0, entry.metadata.size_bytes, entry.extents)
            if of_model
            else None
        )
        if chunk_list and not found.needs(
            chunk_list, name, path, kind=BlobKind.CHUNK_LIST, place=file
        ):
            return False
        whole = True
        if entry.layout:
            whole = found.needs(entry.layout, name, path, kind=BlobKind.LAYOUT, place=file)
        try:
            for ref, offset in placed_chunks(entry, chunks_of(self.reader, entry)):
                place = Place(record, entry.path, offset, ref.size_bytes) if of_model else None
                there = found.needs(ref.blob_id, name, path, kind=BlobKind.DATA, place=place)
                whole = there and whole
        except ColdError:
            return whole
        except DamagedError as error:
            kind = BlobKind.CHUNK_LIST if chunk_list else BlobKind.TREE
            found.blame(chunk_list or tree, error.message, name, path)
            found.fault(chunk_list or tree, kind=kind)
            return False
        return whole
