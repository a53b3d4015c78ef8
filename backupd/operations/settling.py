"""Before the reading: which checkpoint files are new, whether they have settled, what is not whole.

`settle` looks, waits and looks again as `capture.settle` decides; the answer is a `Plan` that the
capture holds itself to.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from backupd.capture.containers.bounded import BoundedFile, TruncatedError, read_at_descriptor
from backupd.capture.folders import name_of, parent_of
from backupd.capture.metadata import TICK_NS
from backupd.capture.openness import FileId, find_writers
from backupd.capture.reading import open_for_capture
from backupd.capture.scan import LeftOutError, Scan, Scanned, ScanOptions, Skipped
from backupd.capture.settle import Observed, Unsettled, decide
from backupd.capture.wholeness.files import judge_file
from backupd.capture.wholeness.names import is_checkpoint_name
from backupd.capture.wholeness.sets import CheckpointSet, Member, judge_sets, spread
from backupd.capture.wholeness.verdict import WHOLE, Judgement, Verdict
from backupd.errors import StoppedError
from backupd.operations.previous import Previous, PreviousEntry
from backupd.operations.progress import Progress
from backupd.operations.settle_plan import NotSettledError, Plan, SeenFile, Settling
from backupd.repository.tree import FileType

_SAID_AFTER_SECONDS = 1.0
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def settle(
    root: bytes,
    options: ScanOptions,
    previous: Previous,
    settling: Settling,
    *,
    clock: Callable[[], float],
    progress: Progress,
    stop: threading.Event,
) -> Plan:
    """Look at the model's checkpoint files until they have settled.

    Raises `NotSettledError`, `StoppedError`, `BackupdError` where the folder cannot be read.
    """
    since = clock() if settling.since is None else settling.since
    said = ""
    while True:
        look = _Look(root, options, previous, clock, stop)
        now = clock()
        # A clock that was set back does not make the wait longer than it is.
        waited = max(now - since, 0.0)
        decision = decide(look.observed, settling.rules, now=now, waited_seconds=waited)
        if not isinstance(decision, Unsettled):
            return look.plan(decision.torn)
        if not settling.wait_here:
            raise NotSettledError(decision.seconds, decision.reason)
        if decision.reason != said and waited >= _SAID_AFTER_SECONDS:
            said = decision.reason
            progress.note(f"waiting: {said}")
        progress.begin("settle")
        if stop.wait(decision.seconds):
            raise StoppedError("stopped while it waited for the model to settle")


class _Look:
    """One look at the whole folder: what changed, and what its structure says."""

    def __init__(
        self,
        root: bytes,
        options: ScanOptions,
        previous: Previous,
        clock: Callable[[], float],
        stop: threading.Event,
    ) -> None:
        self.observed: list[Observed] = []
        self._folders: dict[bytes, dict[bytes, Member]] = {}
        self._changed_folders: dict[bytes, float] = {}
        self._candidates: dict[bytes, Scanned] = {}
        self._judged: dict[bytes, Judgement] = {}
        self._sets: list[CheckpointSet] = []
        self._emptied: list[bytes] = []
        self._lost: dict[bytes, set[bytes]] = {}
        linked: set[bytes] = set()
        with Scan(root, options) as scan:
            for item, before in previous.beside(scan, self._lose):
                if isinstance(item, Skipped):
                    continue
                same = before is not None and before.matches(item)
                if item.type is FileType.FOLDER:
                    if not same:
                        self._changed_folders[item.path] = item.stat.st_ctime
                elif is_checkpoint_name(name_of(item.path)):
                    if item.type is FileType.SYMLINK:
                        # A hub's cache: names that lead to files elsewhere, placed when whole.
                        linked.add(parent_of(item.path))
                    else:
                        self._take(item, same, known=before is not None)
            for folder in linked:
                self._folders.pop(folder, None)
            if self._candidates or self._changed_folders.keys() & self._folders.keys():
                now_ns = int(clock() * 1e9)
                if any(
                    0 <= now_ns - c.stat.st_ctime_ns <= TICK_NS for c in self._candidates.values()
                ):
                    # A write that follows within the same tick would leave the ctime as it is.
                    stop.wait(TICK_NS / 1e9)
                self._judge(scan)

    def _lose(self, before: PreviousEntry) -> bool:
        """Take note of a path that is gone; it is lost all the same."""
        name = name_of(before.path)
        if is_checkpoint_name(name):
            self._lost.setdefault(parent_of(before.path), set()).add(name)
        return False

    def _take(self, item: Scanned, same: bool, *, known: bool) -> None:
        above = parent_of(item.path)
        found = item.stat
        changed = not same or above in self._changed_folders
        self._folders.setdefault(above, {})[name_of(item.path)] = Member(
            item.path, found.st_size, found.st_mtime_ns, changed, known, not same
        )
        # Another name of a file that the scheme leaves out under its first comes as a file.
        if not same and item.type in (FileType.FILE, FileType.HARDLINK):
            self._candidates[item.path] = item

    def _judge(self, scan: Scan) -> None:
        for path, item in self._candidates.items():
            self._judged[path] = _judge_item(scan, item)
        self._sets = judge_sets(self._folders, lambda path: _read(scan, path), self._lost)
        own = {path: judged for path, judged in self._judged.items() if judged != WHOLE}
        spread_out, _ = spread(own, self._sets)
        self._judged |= {p: j for p, j in spread_out.items() if p in self._candidates}
        self._observe_emptied()
        ids: dict[FileId, bytes] = {
            (item.stat.st_dev, item.stat.st_ino): name_of(path)
            for path, item in self._candidates.items()
        }
        writers = find_writers(ids, own_pid=os.getpid())
        for path, item in self._candidates.items():
            found = item.stat
            changed_at = max(found.st_ctime, self._changed_folders.get(parent_of(path), 0.0))
            writer = writers.get((found.st_dev, found.st_ino), "")
            self.observed.append(Observed(path, changed_at, self._judged[path], writer))

    def _observe_emptied(self) -> None:
        """Sets that are no longer whole though no file of them is new: they are being deleted."""
        for one in self._sets:
            if one.judgement == WHOLE or one.members & self._candidates.keys():
                continue
            path = min(one.members)
            changed_at = self._changed_folders.get(parent_of(path), 0.0)
            self.observed.append(Observed(path, changed_at, one.judgement))
            self._emptied.append(path)

    def plan(self, torn: Mapping[bytes, str]) -> Plan:
        """What follows, where `torn` files are not to be believed."""
        in_sets = {path for one in self._sets for path in one.members}
        seen = {p: SeenFile(item.stat, p in in_sets) for p, item in self._candidates.items()}
        torn = dict(torn)
        emptied = {path: torn.pop(path) for path in self._emptied if path in torn}
        # A set with a member that is not to be believed is not to be believed.
        reasons = {path: Judgement(Verdict.TORN, why) for path, why in torn.items()}
        spread_out, folders = spread(reasons, [s._replace(judgement=WHOLE) for s in self._sets])
        torn |= {p: j.reason for p, j in spread_out.items() if p in self._candidates}
        beside = {
            parent_of(path)
            for one in self._sets
            for path in one.members & torn.keys()
            if not one.folder
        }
        return Plan(
            torn,
            {path: judged.reason for path, judged in folders.items()},
            seen,
            tuple(one.members for one in self._sets),
            emptied,
            frozenset(beside),
            self._lost,
        )


def _judge_item(scan: Scan, item: Scanned) -> Judgement:
    try:
        with open_for_capture(scan, item) as file:
            name = name_of(item.path)
            return judge_file(read_at_descriptor(file.fd), file.stat.st_size, name)
    except (LeftOutError, OSError):
        return WHOLE  # gone or unreadable: the capture says so


def _read(scan: Scan, path: bytes) -> BoundedFile | None:
    """The file at `path`, which is opened for each of the few times that it is read."""

    def read_at(offset: int, length: int) -> bytes:
        with _opened(scan, path) as fd:
            return read_at_descriptor(fd)(offset, length)

    try:
        with _opened(scan, path) as fd:
            return BoundedFile(read_at, os.fstat(fd).st_size)
    except TruncatedError:
        return None


@contextmanager
def _opened(scan: Scan, path: bytes) -> Iterator[int]:
    """The regular file at `path`. Raises TruncatedError where there is none that can be read."""
    try:
        fd = os.open(name_of(path), _OPEN_FLAGS, dir_fd=scan.folder_of(path).fd)
    except (OSError, LeftOutError):
        raise TruncatedError("gone while it was looked at") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise TruncatedError("no file any more")
        yield fd
    except OSError as error:
        raise TruncatedError(str(error.strerror)) from None
    finally:
        os.close(fd)
