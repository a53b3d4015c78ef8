"""Keeping files that may run code when they are loaded out of a restore."""

from __future__ import annotations

from collections.abc import Iterator

from backupd.capture.folders import shown
from backupd.errors import BackupdError
from backupd.repository.snapshots import SnapshotRecord
from backupd.repository.tree import FileType, TreeEntry

_ORDER = ("dangerous", "unscanned", "unknown")


class Unsafe:
    """The files of a snapshot that something was found in, with the worst of it."""

    def __init__(self, record: SnapshotRecord) -> None:
        """Raises `BackupdError` where nobody looked through the snapshot's files."""
        if not record.secrets:
            name = f"{record.model}@v{record.version}"
            raise BackupdError(
                f"the files of {name} were not looked through when it was taken, so none of them"
                " is known to be safe",
                hint="restore it without --safe, and load nothing of it that you do not trust",
            )
        self._why: dict[str, str] = {}
        for found in sorted(record.findings, key=lambda found: _rank(found.level)):
            self._why.setdefault(found.path, found.what)

    def why(self, entry: TreeEntry) -> str:
        """Why a path is not to be given, empty where it may be."""
        why = self._why.get(shown(entry.path), "")
        if not why and entry.type is FileType.HARDLINK and shown(entry.link) in self._why:
            return f"is another name of {shown(entry.link)}, which {self._why[shown(entry.link)]}"
        return why

    def without(self, entries: Iterator[TreeEntry], refused: dict[str, str]) -> Iterator[TreeEntry]:
        """The entries that may be given; the others go into `refused`."""
        for entry in entries:
            if why := self.why(entry):
                refused[shown(entry.path)] = f"not given, as it {why}"
            else:
                yield entry


def _rank(level: str) -> int:
    return _ORDER.index(level) if level in _ORDER else len(_ORDER)
