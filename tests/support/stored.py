"""A small repository on disk, written through the repository layer an entry at a time."""

from __future__ import annotations

import os
import time
from pathlib import Path

from blake3 import blake3

from backupd.codec.blob import Encoded
from backupd.codec.chunking_parameters import ChunkingParameters
from backupd.codec.secrets import PUBLIC_MASTER_KEY
from backupd.repository.descriptor import Descriptor
from backupd.repository.index import Index
from backupd.repository.layout import DESCRIPTOR
from backupd.repository.records import BlobKind
from backupd.repository.repository import Repository
from backupd.repository.snapshots import SnapshotRecord
from backupd.repository.tree import ChunkRef, FileType, Metadata, TreeEntry
from backupd.repository.tree_codec import encode_entry
from backupd.repository.writer import Writer
from backupd.targets.local import FolderTarget


class Store:
    """An unencrypted repository at `root`; what is added becomes version 1 of box:m."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.root = root
        target = FolderTarget("disk", root)
        descriptor = Descriptor("0" * 32, False, ChunkingParameters())
        target.put(DESCRIPTOR, [descriptor.to_json()])
        self.repository = Repository(target, descriptor, PUBLIC_MASTER_KEY, os.urandom)
        self.writer = Writer(self.repository, Index(), clock=time.time, workers=1)
        self.stream = self.writer.stream()
        self.lines: list[bytes] = []

    def add(self, path: bytes, kind: FileType, mode: int, size: int = 0, **more: object) -> None:
        metadata = Metadata(mode, os.geteuid(), os.getegid(), 10**18, 0, 0, 0, size)
        self.lines.append(encode_entry(TreeEntry(path, kind, metadata, **more)))  # type: ignore[arg-type]

    def folder(self, path: bytes) -> None:
        self.add(path, FileType.FOLDER, 0o40755)

    def symlink(self, path: bytes, link: bytes) -> None:
        self.add(path, FileType.SYMLINK, 0o120777, link=link)

    def file(self, path: bytes, content: bytes) -> None:
        blob_id = self.stream.store_bytes(BlobKind.DATA, content)
        refs = (ChunkRef(blob_id, len(content)),)
        self.refer(path, content, refs)

    def refer(self, path: bytes, content: bytes, refs: tuple[ChunkRef, ...]) -> None:
        """A file of blobs that are stored already."""
        digest = blake3(content).digest()
        size = len(content)
        self.add(path, FileType.FILE, 0o100644, size, chunks=refs, content_hash=digest)

    def encoded(self, content: bytes, encoded: Encoded) -> bytes:
        """Store a blob in a pack of its own as it was encoded; its id."""
        blob_id = self.repository.secrets.blob_id(content)
        builder = self.writer.take_builder(warm=False)
        builder.add(blob_id, BlobKind.DATA, len(content), encoded)
        self.writer.submit(builder)
        return blob_id

    def commit(self) -> None:
        tree = self.stream.store_bytes(BlobKind.TREE, b"".join(self.lines))
        self.stream.close()
        self.writer.finish()
        self.writer.commit(SnapshotRecord("box", "m", 0, time.time(), b"/m", (tree,)))
