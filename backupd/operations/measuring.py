"""How much a snapshot will have to read, found beside it, so that its bar knows an end."""

from __future__ import annotations

import threading
from types import TracebackType

from backupd.capture.scan import Scan, ScanOptions, Skipped
from backupd.errors import BackupdError
from backupd.operations.progress import NoProgress, Progress
from backupd.repository.tree import FileType


class Measuring:
    """Adds up, in a thread, the files that changed after `since` (epoch seconds).

    A context manager: the thread ends with it. Nothing is done where nobody looks. It is an
    estimate: what was only touched is counted though it is read as well, what appears later is
    not.
    """

    def __init__(self, root: bytes, options: ScanOptions, since: float, progress: Progress) -> None:
        self._root = root
        self._options = options
        self._since = since
        self._progress = progress
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="measure", daemon=True)

    def __enter__(self) -> Measuring:
        if not isinstance(self._progress, NoProgress):
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            with Scan(self._root, self._options) as scan:
                for item in scan:
                    if self._stop.is_set():
                        return
                    if isinstance(item, Skipped) or item.type is not FileType.FILE:
                        continue
                    if max(item.stat.st_ctime, item.stat.st_mtime) > self._since:
                        self._progress.grow(item.stat.st_size)
        except BackupdError:
            return  # the snapshot itself meets the same, and says it
