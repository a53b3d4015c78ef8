"""Restoring for practice: into a scratch folder, every file compared, and the folder removed.

A restore verifies blobs; this compares whole files with the hashes that were taken of them when
they were read, and with the live folder where that has not changed since.
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from blake3 import blake3

from backupd.capture.folders import FolderTree, OpenFolder, name_of, shown
from backupd.errors import BackupdError, DamagedError, NotFoundError, StoppedError
from backupd.operations.catalog import ResolvedSnapshot, info_of, iterate_files
from backupd.operations.installation import Installation
from backupd.operations.progress import NoProgress, Progress
from backupd.operations.reports import DrillReport
from backupd.operations.resolve import resolve
from backupd.operations.restore import RestoreRequest, restore
from backupd.repository.tree import FileType, TreeEntry

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_HASH_BYTES = 1 << 20
_FREE_SHARE = 0.5  # of what is free beside the state folder


def drill(
    installation: Installation,
    spec: str = "",
    *,
    target: str = "",
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> DrillReport:
    """Practise with a snapshot; without `spec` with one that is drawn, of `target` or any.

    No more is restored than `upkeep.drill_size` and half of the free space. Raises
    `NotFoundError` where there is none, `TargetError`, `StoppedError`.
    """
    progress = progress or NoProgress()
    stop = stop or threading.Event()
    began = time.monotonic()
    scratch = installation.settings.state_dir / "drill"
    shutil.rmtree(scratch, ignore_errors=True)  # of a drill that was killed
    snapshot = resolve(installation, spec, target=target) if spec else _draw(installation, target)
    entries: list[TreeEntry] = []
    failed: dict[str, str] = {}
    try:
        entries += (e for e in iterate_files(snapshot) if e.type is FileType.FILE)
    except DamagedError as error:
        failed["(the list of files)"] = error.message
    try:
        scratch.mkdir(parents=True, mode=0o700)
        budget = int(shutil.disk_usage(scratch).free * _FREE_SHARE)
        budget = min(budget, installation.settings.upkeep.drill_size_bytes)
        chosen = _choose(entries, budget, installation.random(32))
        wanted = frozenset(entry.path for entry in chosen)
        request = RestoreRequest(to=scratch / "restored", only=wanted)
        report = restore(installation, snapshot, request, progress=progress, stop=stop)
        failed |= report.failed
        progress.begin("compare", sum(entry.metadata.size_bytes for entry in chosen))
        given = _Comparison(scratch / "restored", stop, progress)
        failed |= given.compare(chosen, failed, unchanged_only=False)
        live_files = 0
        model = installation.settings.models.get(snapshot.info.model)
        if model is not None and snapshot.info.host == installation.settings.host:
            live = _Comparison(model.path, stop, NoProgress())
            differs = live.compare(chosen, failed, unchanged_only=True)
            live_files = live.compared
            failed |= {path: f"in the model's folder: {why}" for path, why in differs.items()}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return DrillReport(
        snapshot=snapshot.info.name,
        target=snapshot.repository.name,
        files=len(chosen),
        size_bytes=sum(entry.metadata.size_bytes for entry in chosen),
        left_out=len(entries) - len(chosen),
        live_files=live_files,
        failed=failed,
        duration_seconds=time.monotonic() - began,
    )


def _draw(installation: Installation, target: str) -> ResolvedSnapshot:
    """Any snapshot of any target that can be reached: what is never tried is what fails."""
    repositories = installation.repositories([target] if target else None)
    drawn = int.from_bytes(installation.random(8), "big")
    repository = repositories[drawn % len(repositories)]
    snapshots = repository.list_snapshots().snapshots
    if not snapshots:
        raise NotFoundError(f"there is no snapshot on {repository.name} to practise with")
    stored = snapshots[drawn // len(repositories) % len(snapshots)]
    return ResolvedSnapshot(info_of(stored, (repository.name,)), stored, repository)


def _choose(entries: Sequence[TreeEntry], budget_bytes: int, key: bytes) -> list[TreeEntry]:
    """As many of the files as fit, others each time, in the order of their paths."""
    chosen = []
    for entry in sorted(entries, key=lambda entry: blake3(entry.path, key=key).digest()):
        if entry.metadata.size_bytes <= budget_bytes:
            budget_bytes -= entry.metadata.size_bytes
            chosen.append(entry)
    return sorted(chosen, key=lambda entry: entry.path)


class _Comparison:
    """Files below a folder compared with what a snapshot says of them."""

    def __init__(self, root: Path, stop: threading.Event, progress: Progress) -> None:
        self.compared = 0
        self._root = root
        self._stop = stop
        self._progress = progress
        self._buffer = memoryview(bytearray(_HASH_BYTES))

    def compare(
        self, entries: Iterable[TreeEntry], known: Iterable[str], *, unchanged_only: bool
    ) -> dict[str, str]:
        """What is wrong with each file that is not as it was stored, but for `known` ones.

        With `unchanged_only` only files whose size and time are those of the snapshot.
        """
        known = frozenset(known)
        wrong: dict[str, str] = {}
        try:
            tree = FolderTree(os.fsencode(self._root), OpenFolder)
        except OSError as error:
            if unchanged_only:
                return {}
            raise BackupdError(f"{self._root} cannot be read: {error.strerror}") from None
        try:
            for entry in entries:
                if self._stop.is_set():
                    raise StoppedError("stopped; the drill begins anew the next time")
                name = shown(entry.path)
                if name not in known:
                    why = self._examine(tree, entry, unchanged_only)
                    if why:
                        wrong[name] = why
                self._progress.advance(entry.metadata.size_bytes, 1)
        finally:
            tree.close()
        return wrong

    def _examine(self, tree: FolderTree[OpenFolder], entry: TreeEntry, unchanged_only: bool) -> str:
        try:
            folder = tree.folder(entry.path.rpartition(b"/")[0])
            descriptor = os.open(name_of(entry.path), _FLAGS, dir_fd=folder.fd)
        except OSError as error:
            return "" if unchanged_only else f"cannot be read: {error.strerror}"
        try:
            status = os.fstat(descriptor)
            metadata = entry.metadata
            same = status.st_size == metadata.size_bytes and stat.S_ISREG(status.st_mode)
            if unchanged_only and not (same and status.st_mtime_ns == metadata.mtime_ns):
                return ""
            self.compared += 1
            if not same:
                return f"has {status.st_size} bytes where it had {metadata.size_bytes}"
            if self._hash(descriptor, entry) != entry.content_hash:
                return "its content is not what was stored, though its size is"
            return ""
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        finally:
            os.close(descriptor)

    def _hash(self, descriptor: int, entry: TreeEntry) -> bytes:
        hasher = blake3()
        for start, length in entry.extents or ((0, entry.metadata.size_bytes),):
            offset, end = start, start + length
            while offset < end:
                wanted = self._buffer[: min(_HASH_BYTES, end - offset)]
                got = os.preadv(descriptor, [wanted], offset)
                if not got:
                    return b""
                hasher.update(wanted[:got])
                offset += got
        return hasher.digest()
