"""The code beside a snapshot: kept in a tree of its own, committed, pushed.

Nothing here fails a snapshot. What goes wrong before it is listed stands in its facts; what goes
wrong after is told, and tried again by the next run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from backupd.config.settings import ModelSettings, S3Target, Settings
from backupd.errors import BackupdError
from backupd.operations.installation import Installation
from backupd.operations.tree_sink import TreeSink
from backupd.repository.pack_stream import PackStream
from backupd.repository.records import BlobKind
from backupd.repository.snapshots import SnapshotRecord
from backupd.repository.tree import ChunkRef, FileType, Metadata, TreeEntry
from backupd.repository.tree_codec import TreeCutter, encode_entry

if TYPE_CHECKING:
    from backupd.capture.provenance.code import CodeCapture, KeptFile

Complete = Callable[[SnapshotRecord], SnapshotRecord]

_FOLDER_MODE = 0o040755
_LINK_MODE = 0o120777
_FORMAT_MASK = 0o170000
_LINK = 0o120000
_NAMED = 3


@dataclass(frozen=True, slots=True)
class WithCode:
    """A record with what is known of the code; `complete` adds to it what needs its version."""

    record: SnapshotRecord
    complete: Complete


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a snapshot's code after it was listed. With `retry` the next run is to try
    again what could not be done."""

    notes: tuple[str, ...] = ()
    retry: bool = False


@contextmanager
def kept_code(
    installation: Installation,
    model: ModelSettings,
    sink: TreeSink,
    record: SnapshotRecord,
    before: SnapshotRecord | None,
) -> Iterator[WithCode]:
    """Keep the model's code through the sink; `before` is the snapshot before, if any.

    Raises what storing raises, and nothing of the code's own.
    """
    if model.code is None:
        yield WithCode(record, lambda versioned: versioned)
        return
    from backupd.capture.provenance.code import CodeWish, capture_code

    wish = CodeWish(
        model.code,
        record.scheme,
        tuple(_no_code(installation.settings)),
        model.include_secrets,
        installation.environment,
    )
    with capture_code(wish) as capture:
        trees = _keep(capture, sink.stream(), os.fsencode(model.code.path))
        whole = replace(
            record,
            code=capture.facts,
            code_trees=trees,
            added_bytes=sink.added_bytes,
            stored_bytes=sink.stored_bytes,
        )
        yield WithCode(whole, _committing(capture, before))


def code_notes(record: SnapshotRecord) -> Iterator[str]:
    """What a snapshot's report says of its code: the first notes, and how many there are."""
    notes = list(record.code.get("notes", ()))
    for note in notes[:_NAMED]:
        yield f"code: {note}"
    if len(notes) > _NAMED:
        name = f"{record.model}@v{record.version}"
        yield f"code: and {len(notes) - _NAMED} more, which `backupd show {name}` tells"


def settle_code(
    installation: Installation, model: ModelSettings, record: SnapshotRecord
) -> Settled:
    """Put a listed snapshot's commit on its branch, and push that, where that is not done yet."""
    code = model.code
    if code is None or code.git == "record" or not record.code.get("side_commit"):
        return Settled()
    from backupd.capture.provenance.code import repository_of
    from backupd.operations.side_branch import Pushes, follow

    notes = []
    try:
        repository = repository_of(code.path, installation.environment)
        follow(repository, record)
        if code.git == "push":
            branch = str(record.code["side_branch"])
            pushed = Pushes(installation, model.name).push(repository, branch)
            if pushed:
                notes.append(f"code: {branch} is pushed up to {pushed[:12]}")
    except (BackupdError, OSError) as error:
        return Settled((f"code: {error}; it is tried again",), retry=True)
    return Settled(tuple(notes))


def _no_code(settings: Settings) -> Iterator[Path]:
    """What may lie among the code and is none of it."""
    yield from (model.path for model in settings.models.values())
    yield settings.state_dir
    for target in settings.targets.values():
        if not isinstance(target, S3Target):
            yield target.path
        elif target.credentials_file is not None:
            yield target.credentials_file
    yield from filter(None, (settings.key.file, settings.key.passphrase_file))


def _committing(capture: CodeCapture, before: SnapshotRecord | None) -> Complete:
    from backupd.operations.side_branch import with_commit

    def complete(record: SnapshotRecord) -> SnapshotRecord:
        if capture.repository is None:
            return record
        try:
            return with_commit(capture.repository, record, before)
        except (BackupdError, OSError) as error:
            notes = [*record.code.get("notes", ()), f"no commit is made: {error}"]
            return replace(record, code={**record.code, "notes": notes})

    return complete


def _keep(capture: CodeCapture, stream: PackStream, folder: bytes) -> tuple[bytes, ...]:
    """Store the files; the ids of the tree's blobs, none where there is nothing to keep."""
    from backupd.capture.provenance.running import ProgramError

    try:
        owner = os.stat(folder)
    except OSError:
        owner = os.stat("/")
    tree = _CodeTree(stream, owner.st_uid, owner.st_gid, capture.seconds * 10**9)
    try:
        for file in capture.files():
            tree.add(file)
    except (ProgramError, OSError) as error:
        capture.note(f"not all of it is kept: {error}")
    return tree.finish()


class _CodeTree:
    """Gathers files in path order, with the folders above them, into tree blobs."""

    def __init__(self, stream: PackStream, uid: int, gid: int, mtime_ns: int) -> None:
        self._stream = stream
        self._uid = uid
        self._gid = gid
        self._mtime_ns = mtime_ns
        self._cutter = TreeCutter()
        self._trees: list[bytes] = []
        self._pending: list[TreeEntry] = []
        self._folders: set[bytes] = set()

    def add(self, file: KeptFile) -> None:
        """Store a file's content, and remember its entry."""
        content = file.content
        if file.mode & _FORMAT_MASK == _LINK:
            self._pending.append(
                TreeEntry(file.path, FileType.SYMLINK, self._metadata(_LINK_MODE), content)
            )
        else:
            chunks: tuple[ChunkRef, ...] = ()
            if content:
                blob_id = self._stream.store_bytes(BlobKind.DATA, content)
                chunks = (ChunkRef(blob_id, len(content)),)
            self._pending.append(
                TreeEntry(
                    file.path,
                    FileType.FILE,
                    self._metadata(file.mode, len(content)),
                    chunks=chunks,
                    content_hash=blake3(content).digest(),
                )
            )
        above = file.path
        while b"/" in above:
            above = above[: above.rfind(b"/")]
            self._folders.add(above)

    def _metadata(self, mode: int, size: int = 0) -> Metadata:
        return Metadata(mode, self._uid, self._gid, self._mtime_ns, 0, 0, 0, size)

    def finish(self) -> tuple[bytes, ...]:
        """Store the tree; its ids."""
        if self._pending:
            self._folders.add(b"")
        folders = (
            TreeEntry(path, FileType.FOLDER, self._metadata(_FOLDER_MODE)) for path in self._folders
        )
        self._store(sorted((*folders, *self._pending), key=lambda entry: entry.path))
        self._stream.close()
        return tuple(self._trees)

    def _store(self, entries: Iterable[TreeEntry]) -> None:
        for entry in entries:
            blob = self._cutter.add(entry.path, encode_entry(entry))
            if blob is not None:
                self._trees.append(self._stream.store_bytes(BlobKind.TREE, blob))
        if rest := self._cutter.rest():
            self._trees.append(self._stream.store_bytes(BlobKind.TREE, rest))
