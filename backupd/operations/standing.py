"""What stands in a folder, in one hash: whether anything was written there in the meantime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from blake3 import blake3

from backupd.capture.folders import name_of, shown
from backupd.capture.openness import FileId, find_writers
from backupd.capture.scan import Scan, ScanOptions, SkipKind, Skipped
from backupd.errors import BackupdError
from backupd.repository.tree import FileType


@dataclass(frozen=True, slots=True)
class Standing:
    """A folder's `digest`, and its files by device and inode with their last names."""

    digest: str
    files: Mapping[FileId, bytes]


def look_at(root: bytes) -> Standing:
    """What stands in `root`, with what no snapshot would keep.

    Of a file it is inode, size, mtime, mode and owner that count: its ctime also moves when it
    gets another name elsewhere, as a switch gives it. Raises `BackupdError` where another
    filesystem is mounted within, as that could not come along.
    """
    hasher = blake3()
    files: dict[FileId, bytes] = {}
    with Scan(root, ScanOptions()) as scan:
        for item in scan:
            if isinstance(item, Skipped):
                if item.kind is SkipKind.MOUNT:
                    raise BackupdError(
                        f"another filesystem is mounted at {shown(item.path)} in {shown(root)}",
                        hint="unmount it, or give the version back elsewhere with restore --to",
                    )
                hasher.update(repr((item.path, item.kind.value)).encode())
                continue
            stat = item.stat
            facts: tuple[object, ...] = (item.path, stat.st_ino, stat.st_mode, item.link)
            if item.type is not FileType.FOLDER:
                facts += (stat.st_size, stat.st_mtime_ns, stat.st_uid, stat.st_gid)
            if item.type is FileType.FILE:
                files[stat.st_dev, stat.st_ino] = name_of(item.path)
            hasher.update(repr(facts).encode())
    return Standing(hasher.hexdigest(), files)


def refuse_writers(root: bytes, standing: Standing) -> None:
    """Raise `BackupdError` where another process has a file of the folder open for writing."""
    found = find_writers(standing.files, own_pid=os.getpid())
    if not found:
        return
    key, who = next(iter(found.items()))
    more = f", and {len(found) - 1} more files are" if len(found) > 1 else " is"
    raise BackupdError(
        f"{shown(standing.files[key])} in {shown(root)}{more} being written, by {who}",
        hint="stop the training first, or give --force: it would go on writing to a folder"
        " that is not the model's any more",
    )
