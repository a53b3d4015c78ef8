"""Giving a snapshot back: choose, look what is there, read in the packs' order, verify, place.

Nothing is written before all that is in the way has been found. What cannot be given is named,
and the rest is given.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from backupd.capture.folders import shown
from backupd.errors import BackupdError, DamagedError, StoppedError
from backupd.operations.catalog import ResolvedSnapshot
from backupd.operations.installation import Installation
from backupd.operations.placement import Placement, RestoreRoot, plan_placement
from backupd.operations.placement_errors import PlacementError
from backupd.operations.progress import NoProgress, Progress
from backupd.operations.reports import PlannedFile, RestoreReport
from backupd.operations.restoring import FileRestorer
from backupd.operations.safety import Unsafe
from backupd.operations.selection import select
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.tree import FileType, TreeEntry
from backupd.repository.tree_codec import decode_tree

_CONTENT = (FileType.FILE, FileType.HARDLINK)
_NAMED = 5  # how many paths a refusal names


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """What to give back, and where to: `to` is a folder, or None for where it was.

    `include` and `exclude` are gitignore-style patterns. Without `overwrite` nothing that is
    there is replaced. With `only` no other files are given than these paths. With `safe` files
    that may run code when they are loaded are not given.
    """

    to: Path | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    overwrite: bool = False
    only: frozenset[bytes] | None = None
    safe: bool = False

    def root(self, snapshot: ResolvedSnapshot) -> bytes:
        """The absolute folder that the restore writes to. Raises `BackupdError`."""
        root = snapshot.stored.record.root if self.to is None else os.fsencode(self.to.absolute())
        if not root.startswith(b"/") or b"\0" in root:
            raise BackupdError(
                f"the snapshot was taken of {shown(root)}, which is no absolute path",
                hint="say where to put it: --to DIR",
            )
        return root


def plan_restore(
    installation: Installation, snapshot: ResolvedSnapshot, request: RestoreRequest
) -> Iterator[PlannedFile]:
    """What `restore` would do with each path, in path order; changes nothing.

    Raises `DamagedError` where a part of the tree cannot be read.
    """
    reader = _reader(snapshot, NoProgress())
    unsafe = Unsafe(snapshot.stored.record) if request.safe else None
    failed: dict[str, str] = {}
    entries = list(select(_entries(reader, snapshot, failed), request.include, request.exclude))
    for entry, placement in zip(
        entries, plan_placement(request.root(snapshot), entries), strict=True
    ):
        action = {
            Placement.CREATE: "create",
            Placement.SAME: "skip",
            Placement.DIFFERS: "overwrite" if request.overwrite else "refuse",
            Placement.BLOCKED: "overwrite" if request.overwrite else "refuse",
        }[placement]
        if unsafe is not None and unsafe.why(entry):
            action = "leave out"
        size = entry.metadata.size_bytes if entry.type is FileType.FILE else 0
        yield PlannedFile(shown(entry.path) or ".", action, size)
    if failed:
        raise DamagedError("; ".join(failed.values()))


def restore(
    installation: Installation,
    snapshot: ResolvedSnapshot,
    request: RestoreRequest,
    *,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> RestoreReport:
    """Give a snapshot back; every byte is verified before it is written.

    Raises `BackupdError` before anything is written where something is in the way or, with
    `safe`, where nobody looked for dangers, and for what
    ends a restore (a full disk, a target that went away); `StoppedError` when stopped. A second
    run then skips what is already right.
    """
    progress = progress or NoProgress()
    stop = stop or threading.Event()
    root = request.root(snapshot)
    reader = _reader(snapshot, progress)
    unsafe = Unsafe(snapshot.stored.record) if request.safe else None
    failed: dict[str, str] = {}
    notes: list[str] = []
    only = request.only

    def warn(path: bytes, reason: str) -> None:
        notes.append(f"{shown(path) or '.'}: {reason}")

    def chosen() -> Iterator[TreeEntry]:
        failed.clear()
        found = select(_entries(reader, snapshot, failed), request.include, request.exclude)
        if unsafe is not None:
            found = unsafe.without(found, failed)
        if only is None:
            return found
        # A hard link stands where the file does that it is another name of.
        return (e for e in found if (e.link or e.path) in only or e.type not in _CONTENT)

    if not request.overwrite and _holds_something(root):
        _refuse_to_overwrite(root, chosen())
    if request.include or request.exclude or only is not None:
        total = sum(e.metadata.size_bytes for e in chosen() if e.type is FileType.FILE)
    else:
        total = snapshot.stored.record.size_bytes
    progress.begin("restore", total)
    with RestoreRoot(
        root, overwrite=request.overwrite, claim_root=request.to is None, warn=warn
    ) as place:
        restorer = FileRestorer(
            reader.finder,
            place,
            threads=installation.settings.limits.threads,
            waiting=installation.reads_ahead(snapshot.repository.name),
            failed=failed,
            progress=progress,
            stop=stop,
        )
        links: list[TreeEntry] = []
        found = {danger.path for danger in snapshot.stored.record.findings}
        dangerous: set[str] = set()
        with restorer:
            for entry in chosen():
                if stop.is_set():
                    raise StoppedError("stopped; run the restore again to go on where it ended")
                if found and shown(entry.path) in found:
                    dangerous.add(shown(entry.path))
                _place(entry, place, reader, restorer, links, failed)
        # Hard links last, as what they link to must be in its place.
        for entry in links:
            _guarded(place.make_hardlink, entry, failed)
        place.finish_folders()
    return RestoreReport(
        restored_files=restorer.restored_files,
        restored_bytes=restorer.restored_bytes,
        skipped_files=restorer.skipped_files,
        failed=failed,
        notes=tuple(notes),
        findings=tuple(d for d in snapshot.stored.record.findings if d.path in dangerous),
        cold_packs=len(reader.finder.cold),
    )


def _reader(snapshot: ResolvedSnapshot, progress: Progress) -> BlobReader:
    repository = snapshot.repository
    index = repository.load_index(progress.note)
    return BlobReader(BlobFinder(repository, index, progress.note))


def _entries(
    reader: BlobReader, snapshot: ResolvedSnapshot, failed: dict[str, str]
) -> Iterator[TreeEntry]:
    """All entries that can be read; a part of the tree that cannot be goes into `failed`."""
    trees = snapshot.stored.record.trees
    last = b""
    for number, tree in enumerate(trees, 1):
        try:
            for entry in decode_tree(bytes(reader.read(tree))):
                last = entry.path
                yield entry
        except DamagedError as error:
            part = f"part {number} of {len(trees)} of the list of files"
            failed[f"({part}, after {shown(last) or 'the beginning'})"] = error.message


def _holds_something(root: bytes) -> bool:
    """Whether anything can be in the way. Looking costs a pass over the whole tree."""
    try:
        with os.scandir(root) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _refuse_to_overwrite(root: bytes, entries: Iterator[TreeEntry]) -> None:
    in_the_way = []
    count = 0
    for entry, placement in _with_placement(root, entries):
        if placement in (Placement.DIFFERS, Placement.BLOCKED):
            count += 1
            if count <= _NAMED:
                in_the_way.append(shown(entry.path))
    if count:
        more = f" and {count - _NAMED} more" if count > _NAMED else ""
        raise BackupdError(
            f"{count} paths in {shown(root)} differ from the snapshot: "
            f"{', '.join(in_the_way)}{more}",
            hint="nothing was written; give --overwrite to replace them, or --to DIR to restore "
            "elsewhere",
        )


def _with_placement(
    root: bytes, entries: Iterator[TreeEntry]
) -> Iterator[tuple[TreeEntry, Placement]]:
    present: list[TreeEntry] = []

    def remembered() -> Iterator[TreeEntry]:
        for entry in entries:
            present[:] = [entry]
            yield entry

    for placement in plan_placement(root, remembered()):
        yield present[0], placement


def _place(
    entry: TreeEntry,
    place: RestoreRoot,
    reader: BlobReader,
    restorer: FileRestorer,
    links: list[TreeEntry],
    failed: dict[str, str],
) -> None:
    if entry.type is FileType.FOLDER:
        _guarded(place.make_folder, entry, failed)
    elif entry.type is FileType.HARDLINK:
        links.append(entry)
    elif entry.type is FileType.SYMLINK:
        _guarded(lambda link: _make_symlink(place, link), entry, failed)
    else:
        _guarded(lambda file: restorer.add(file, reader), entry, failed)


def _make_symlink(place: RestoreRoot, entry: TreeEntry) -> None:
    if place.classify(entry) is not Placement.SAME:
        place.make_symlink(entry)


def _guarded(act: Callable[[TreeEntry], None], entry: TreeEntry, failed: dict[str, str]) -> None:
    """Do it, or say which path cannot be given and why; raises what ends the whole restore."""
    try:
        act(entry)
    except PlacementError as error:
        if error.fatal:
            raise
        failed[shown(entry.path)] = error.reason
    except DamagedError as error:
        failed[shown(entry.path)] = error.message
