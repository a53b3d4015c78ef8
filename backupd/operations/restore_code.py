"""Giving back the code of a snapshot: what is kept of it, and its source.

The source is the kept copy where there is one; else it is checked out of the commit, which is
looked for in the repository on this box and then at its remote, and what differed is laid over it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backupd.capture.folders import shown
from backupd.errors import (
    BackupdError,
    DamagedError,
    NotFoundError,
    StoppedError,
    TargetError,
)
from backupd.operations.catalog import ResolvedSnapshot
from backupd.operations.installation import Installation
from backupd.operations.placement import RestoreRoot
from backupd.operations.placement_errors import PlacementError
from backupd.operations.progress import Progress
from backupd.operations.restore import RestoreRequest, restore
from backupd.repository.reachable import chunks_of
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.tree import FileType, TreeEntry
from backupd.repository.tree_codec import decode_tree

SOURCE = "source"
_UNTRACKED = b"untracked/"


@dataclass(frozen=True, slots=True)
class CodeReport:
    """What became of the code: where its source is from (empty: there is none), and what could
    not be given, by path, with why."""

    source: str
    restored_files: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def require_code(snapshot: ResolvedSnapshot) -> None:
    """Raises `NotFoundError` where nothing is known of a snapshot's code."""
    if not snapshot.stored.record.code:
        raise NotFoundError(
            f"{snapshot.info.name} was taken without its code",
            hint="the model's `code` in the configuration says where it lies, for the next ones",
        )


def restore_code(
    installation: Installation,
    snapshot: ResolvedSnapshot,
    to: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> CodeReport:
    """Give back a snapshot's code into the folder `to`; see `require_code`.

    What is in the way is a failure of all of it, since the model may be given already. Raises
    what ends a restore.
    """
    require_code(snapshot)
    record = snapshot.stored.record
    failed: dict[str, str] = {}
    notes: list[str] = []
    files = 0
    if record.code_trees:
        request = RestoreRequest(to=to, overwrite=overwrite)
        aside = replace(record, trees=record.code_trees, size_bytes=0)
        kept = replace(snapshot, stored=replace(snapshot.stored, record=aside))
        try:
            report = restore(installation, kept, request, progress=progress, stop=stop)
        except (StoppedError, TargetError):
            raise
        except BackupdError as error:
            return CodeReport("", failed={str(to): error.message})
        failed |= report.failed
        notes += report.notes
        files = report.restored_files
    if SOURCE in record.code.get("kept", ()):
        return CodeReport("the copy in the snapshot", files, failed, tuple(notes))
    if record.code.get("system") == "none":
        notes.append("the code is in no version control, and the scheme keeps no source")
        return CodeReport("", files, failed, tuple(notes))
    try:
        to.mkdir(parents=True, exist_ok=True)
        source = _check_out(installation, record.code, to, overwrite=overwrite)
        _lay_over(snapshot, to, failed)
    except (BackupdError, OSError) as error:
        failed[SOURCE] = str(error)
        source = ""
    return CodeReport(source, files, failed, tuple(notes))


def _check_out(
    installation: Installation, code: Mapping[str, Any], to: Path, *, overwrite: bool
) -> str:
    """Put the source into `to/source`, as it was committed; where it was found.

    Raises `BackupdError`.
    """
    from backupd.capture.provenance.checkout import (
        apply_patch,
        check_out_git,
        export_subversion,
    )

    place = to / SOURCE
    if place.exists() and not overwrite:
        raise BackupdError(
            f"{place} is there already", hint="name another folder, or give --overwrite"
        )
    environment = installation.environment
    if code.get("system") == "subversion":
        found = export_subversion(code, place, environment)
        differs = True
    else:
        found, differs = check_out_git(code, place, environment)
    patch = to / "changes.patch"
    if differs and patch.exists():
        strip = 0 if code.get("system") == "subversion" else 1
        apply_patch(patch, place, environment, strip=strip)
    return found


def _lay_over(snapshot: ResolvedSnapshot, to: Path, failed: dict[str, str]) -> None:
    """Put the files that no version control knew into their place in the source."""
    repository = snapshot.repository
    index = repository.load_index(lambda message: None)
    reader = BlobReader(BlobFinder(repository, index, lambda message: None))
    entries = [
        entry._replace(path=b"source/" + entry.path.removeprefix(_UNTRACKED))
        for tree in snapshot.stored.record.code_trees
        for entry in decode_tree(bytes(reader.read(tree)))
        if entry.path.startswith(_UNTRACKED)
    ]
    if not entries:
        return
    with RestoreRoot(
        os.fsencode(to), overwrite=True, claim_root=False, warn=lambda path, why: None
    ) as place:
        for entry in entries:
            try:
                _place(place, entry, reader)
            except PlacementError as error:
                if error.fatal:
                    raise
                failed[shown(entry.path)] = error.reason
            except DamagedError as error:
                failed[shown(entry.path)] = error.message


def _place(place: RestoreRoot, entry: TreeEntry, reader: BlobReader) -> None:
    if entry.type is FileType.FOLDER:
        place.make_folder(entry)
    elif entry.type is FileType.SYMLINK:
        place.make_symlink(entry)
    else:
        file = place.begin_file(entry)
        offset = 0
        for ref in chunks_of(reader, entry):
            file.pwrite(reader.read(ref.blob_id), offset)
            offset += ref.size_bytes
        file.finish()
