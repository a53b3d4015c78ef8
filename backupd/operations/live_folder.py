"""Chunks that still stand in the models' folders, and trees that the state folder keeps.

What is read counts only when its id is right, so nothing here trusts a time or a size.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from backupd.capture.folders import FolderTree, OpenFolder, name_of
from backupd.codec.chunking import Chunker
from backupd.operations.diagnosis import Place, Wound
from backupd.operations.installation import Installation
from backupd.operations.recutting import chunk_list_of, layout_of
from backupd.operations.tree_cache import TreeCache
from backupd.repository.records import BlobKind
from backupd.repository.repository import Repository

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LiveFolders:
    """The folders of this host's configured models, as a source of blobs for one repository."""

    def __init__(self, installation: Installation, repository: Repository) -> None:
        self._settings = installation.settings
        self._blob_id = repository.secrets.blob_id
        parameters = repository.descriptor.chunking
        self._chunker = Chunker(parameters, repository.secrets.chunking_key)
        models = () if installation.standalone else tuple(installation.settings.models)
        self._caches = [TreeCache.of_model(installation, repository, name) for name in models]
        self._folders: dict[str, FolderTree[OpenFolder] | None] = {}

    def may_have(self, wound: Wound) -> bool:
        """Whether it is worth a look, without reading content."""
        if wound.kind is BlobKind.TREE:
            return any(cache.get(wound.blob_id) is not None for cache in self._caches)
        return any(self._open(place) >= 0 for place in self._here(wound.places))

    def read(self, wound: Wound) -> bytes | None:
        """The blob's bytes, or None where they are not there any more."""
        if wound.kind is BlobKind.TREE:
            for cache in self._caches:
                plain = cache.get(wound.blob_id)
                if plain is not None:
                    return plain
            return None
        for place in self._here(wound.places):
            descriptor = self._open(place, keep=True)
            if descriptor < 0:
                continue
            try:
                found = self._made_of(descriptor, wound.kind, place)
            except OSError:
                continue
            finally:
                os.close(descriptor)
            if self._blob_id(memoryview(found)) == wound.blob_id:
                return found
        return None

    def _made_of(self, descriptor: int, kind: BlobKind, place: Place) -> bytes:
        if kind is BlobKind.DATA:
            return os.pread(descriptor, place.size_bytes, place.offset)
        name = name_of(place.path)
        if kind is BlobKind.LAYOUT:
            return layout_of(descriptor, name)
        return chunk_list_of(descriptor, name, place.extents, self._chunker, self._blob_id)

    def _here(self, places: Iterable[Place]) -> Iterable[Place]:
        for place in places:
            model = self._settings.models.get(place.record.model)
            if model is not None and place.record.host == self._settings.host:
                yield place

    def _open(self, place: Place, *, keep: bool = False) -> int:
        """A descriptor of the place's file (closed at once unless it is to be kept), or -1."""
        folder, _, _ = place.path.rpartition(b"/")
        try:
            tree = self._tree(place.record.model)
            if tree is None:
                return -1
            opened = tree.folder(folder)
            descriptor = os.open(name_of(place.path), _FLAGS, dir_fd=opened.fd)
        except OSError:
            return -1
        status = os.fstat(descriptor)
        fits = stat.S_ISREG(status.st_mode) and (status.st_size >= place.offset + place.size_bytes)
        if not fits or not keep:
            os.close(descriptor)
        return descriptor if fits else -1

    def _tree(self, model: str) -> FolderTree[OpenFolder] | None:
        if model not in self._folders:
            root = os.fsencode(self._settings.models[model].path)
            try:
                self._folders[model] = FolderTree(root, OpenFolder)
            except OSError:
                self._folders[model] = None
        return self._folders[model]
