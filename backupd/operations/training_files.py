"""Where the training stood when a snapshot was taken: what was said, else what its files tell."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from backupd.capture.reading import open_for_capture
from backupd.capture.scan import LeftOutError, Scan, Scanned
from backupd.repository.tree import FileType

if TYPE_CHECKING:
    from backupd.capture.training import Standing

_SUFFIXES = (b".csv", b"trainer_state.json", b"history.json")
_MOST_LOOKED_INTO = 4


class TrainingFiles:
    """Keeps the newest files of a scan that may tell; one thread's own."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._newest: list[Scanned] = []

    def see(self, item: Scanned) -> None:
        """A path of the scan; nearly all are passed over at once."""
        if item.path.endswith(_SUFFIXES) and item.type is FileType.FILE:
            self._newest.append(item)
            if len(self._newest) > _MOST_LOOKED_INTO:
                self._newest.remove(min(self._newest, key=_when))

    def standing(self) -> Standing | None:
        """What the newest of them that tells anything tells."""
        from backupd.capture.training import read_standing, tells_of_training

        for item in sorted(self._newest, key=_when, reverse=True):
            if not tells_of_training(item.path):
                continue
            try:
                with open_for_capture(self._scan, item) as file:
                    fd = file.fd
                    found = read_standing(
                        item.path,
                        file.stat.st_size,
                        lambda at, length, fd=fd: os.pread(fd, length, at),  # type: ignore[misc]
                    )
            except (LeftOutError, OSError):
                continue
            if found is not None:
                return found
        return None


def _when(item: Scanned) -> int:
    return item.stat.st_mtime_ns
