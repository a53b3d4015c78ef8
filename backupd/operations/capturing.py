"""What becomes of one scanned path that is new or looks changed: read, verified, or left out.

A checkpoint file is taken only in the state that the plan found settled, or in one that is whole
by itself; else the snapshot keeps the state of the one before.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from backupd.capture.folders import name_of, parent_of
from backupd.capture.freeze import Freezer
from backupd.capture.metadata import TICK_NS
from backupd.capture.reading import CaptureFile, open_for_capture, read_small
from backupd.capture.scan import LeftOutError, Scan, Scanned, SkipKind, Skipped
from backupd.capture.wholeness.names import is_checkpoint_name
from backupd.operations.inspection import Inspection
from backupd.operations.previous import PreviousEntry, same_but_for_inode
from backupd.operations.settle_plan import Plan, SeenFile
from backupd.operations.tree_sink import KeptFile, TreeSink
from backupd.repository.tree import FileType, TreeEntry

if TYPE_CHECKING:
    from backupd.operations.small_files import SmallFile

# How often a file that changes while it is read is read again, and how long is waited before.
_READINGS = 4
_PAUSE_SECONDS = 0.25
# A smaller file is read faster than it is cloned.
_FROZEN_BYTES = 1 << 20


class MovedOnError(Exception):
    """The model's checkpoints are no longer what the plan saw; they are to be looked at again."""


class Capture:
    """Takes in the paths of one scan. One thread's own.

    `left_out` collects what the snapshot lacks. Without a plan the first new checkpoint file
    raises `MovedOnError`; with `last` nothing does: what does not hold still is named instead.
    """

    def __init__(
        self,
        scan: Scan,
        sink: TreeSink,
        inspection: Inspection,
        plan: Plan | None,
        *,
        freezer: Freezer,
        clock: Callable[[], float],
        stop: threading.Event,
        previous_version: int,
        last: bool,
        keep_torn: bool = False,
    ) -> None:
        """With `keep_torn` what is not whole is taken as it is, and named all the same."""
        self.left_out: list[Skipped] = []
        self._scan = scan
        self._sink = sink
        self._inspection = inspection
        self._planned = plan is not None
        self._plan = plan or Plan()
        self._freezer = freezer
        self._clock = clock
        self._stop = stop
        self._previous_version = previous_version
        self._last = last
        self._keep_torn = keep_torn
        sink.keeps_small = self._keeps_small
        self._frozen: dict[bytes, CaptureFile] = {}
        self._visited: set[bytes] = set()

    def close(self) -> None:
        """Let go of what is frozen."""
        while self._frozen:
            self._frozen.popitem()[1].close()

    def freeze(self) -> None:
        """Clone all large checkpoint files of the plan before the first is read.

        Raises `MovedOnError`.
        """
        for path, seen in self._plan.seen.items():
            if seen.stat.st_size < _FROZEN_BYTES or self._plan.doubt(path):
                continue
            item = Scanned(path, FileType.FILE, seen.stat)
            try:
                file = open_for_capture(self._scan, item)
            except LeftOutError:
                continue
            if seen.is_still(file.stat) and not self._is_young(file.stat):
                file.freeze(self._freezer)
            if not file.frozen:
                file.close()
                if not self._freezer.able:
                    return
                continue
            self._frozen[path] = file

    def skip(self, skipped: Skipped) -> None:
        """Take note of a path that the scan could not give."""
        if (
            skipped.kind is SkipKind.VANISHED
            and not self._last
            and is_checkpoint_name(name_of(skipped.path))
        ):
            raise MovedOnError
        self.left_out.append(skipped)

    def keep_lost(self, before: PreviousEntry) -> bool:
        """Keep what is gone of a checkpoint that is kept as it was; whether it is.

        Raises `MovedOnError` where it is not in the plan: what is left of the checkpoint is to be
        looked at.
        """
        name = name_of(before.path)
        known = name in self._plan.lost.get(parent_of(before.path), ())
        if is_checkpoint_name(name) and not known:
            if not self._last:
                raise MovedOnError  # it went since the look, or there was none yet
            reason = "was deleted while the rest of its checkpoint was read"
            self.left_out.append(Skipped(before.path, SkipKind.TORN, reason))
        if before.type not in (FileType.FILE, FileType.FOLDER):
            return False
        if not self._plan.misses(before.path):
            return False
        self._sink.keep(before)
        self._inspection.take_over(before.path)
        reason = (
            f"is gone from a checkpoint in the making; kept as v{self._previous_version} has it"
        )
        self.left_out.append(Skipped(before.path, SkipKind.TORN, reason))
        return True

    def pass_over(self, item: Scanned, before: PreviousEntry | None) -> None:
        """Take note of a path that is there and not wanted."""
        self._visited.add(item.path)
        self._sink.changed = self._sink.changed or before is not None

    def take(self, item: Scanned, before: PreviousEntry | None) -> None:
        """Take in a path. Raises `MovedOnError`."""
        self._visited.add(item.path)
        try:
            if item.type is FileType.FILE:
                self._take_file(item, before)
                return
            now_ns = int(self._clock() * 1e9)
            kept = self._scan.metadata(item, now_ns=now_ns, skipped=self.left_out)
        except LeftOutError as error:
            self._leave_out(error.skipped, item, before)
            return
        entry = TreeEntry(item.path, item.type, kept, item.link)
        if before is None or not same_but_for_inode(before.entry, entry):
            self._sink.changed = True
        self._sink.add(entry)

    def check_sets(self) -> None:
        """After the last path: name the checkpoints that were deleted half-way through.

        Raises `MovedOnError`.
        """
        for path, why in self._plan.emptied.items():
            reason = f"belongs to a checkpoint that {why}; it is kept without that"
            self.left_out.append(Skipped(path, SkipKind.TORN, reason))
        for members in self._plan.sets:
            new = members & self._plan.seen.keys()
            gone = new - self._visited
            if gone and len(gone) < len(new):
                if not self._last:
                    raise MovedOnError
                reason = "was deleted while the rest of its checkpoint was read"
                self.left_out.append(Skipped(min(gone), SkipKind.TORN, reason))

    def _leave_out(self, skipped: Skipped, item: Scanned, before: PreviousEntry | None) -> None:
        """Name a path, and keep what the previous snapshot has of it where it may come back."""
        self._inspection.forget(item.path)
        still_wanted = skipped.kind in (SkipKind.CHANGING, SkipKind.TORN)
        if still_wanted and before is not None and before.type is FileType.FILE:
            self._sink.keep(before)
            self._inspection.take_over(item.path)
            reason = f"{skipped.reason}; kept as v{self._previous_version} has it"
            self.left_out.append(skipped._replace(reason=reason))
            return
        if still_wanted:
            skipped = skipped._replace(reason=f"{skipped.reason}, so it was left out")
        self.left_out.append(skipped)
        self._scan.release_link(item)
        self._sink.changed = self._sink.changed or before is not None

    def _take_file(self, item: Scanned, before: PreviousEntry | None) -> None:
        doubt = self._plan.doubt(item.path)
        if doubt and not self._keep_torn:
            raise LeftOutError(Skipped(item.path, SkipKind.TORN, doubt))
        if doubt:
            reason = f"{doubt}; stored as it is, as keep_torn says"
            self.left_out.append(Skipped(item.path, SkipKind.TORN, reason))
        elif is_checkpoint_name(name_of(item.path)):
            if not self._planned:
                raise MovedOnError
            self._take_checkpoint(item, before)
            return
        size = item.stat.st_size
        # A file with holes has fewer blocks than bytes (512: see stat(2)).
        if size < self._sink.small_bytes and item.stat.st_blocks * 512 >= size:
            frame = self._sink.small_frame(size)
            now_ns = int(self._clock() * 1e9)
            metadata = read_small(self._scan, item, frame, now_ns=now_ns, skipped=self.left_out)
            if metadata is not None:
                if item.stat.st_nlink > 1:
                    # What becomes of its other names, which may come next, depends on it.
                    self._inspection.small(item.path, frame, suspected=True)
                self._sink.add_small(item, metadata, before)
                return
        for reading in range(_READINGS):
            if reading and self._stop.wait(_PAUSE_SECONDS * reading):
                break
            with open_for_capture(self._scan, item) as file:
                if reading and file.stat.st_size >= _FROZEN_BYTES:
                    file.freeze(self._freezer)
                if self._read(file, before):
                    return
        raise LeftOutError(
            Skipped(
                item.path, SkipKind.CHANGING, f"changed each of the {_READINGS} times it was read"
            )
        )

    def _keeps_small(self, file: SmallFile, content: memoryview, suspected: bool) -> bool:
        """Look into a small file that was read before; whether it is kept."""
        try:
            self._inspection.small(file.item.path, content, suspected=suspected)
        except LeftOutError as error:
            self._leave_out(error.skipped, file.item, file.before)
            return False
        return True

    def _take_checkpoint(self, item: Scanned, before: PreviousEntry | None) -> None:
        """Take a file in the state that is in the plan, or in a later one that is whole."""
        seen = self._plan.seen.get(item.path)
        why = "changed while it was read"
        for reading in range(_READINGS):
            if reading and self._stop.wait(_PAUSE_SECONDS * reading):
                break
            with self._open(item, reading) as file:
                if seen is None or not seen.is_still(file.stat):
                    why = self._doubt_later_state(file, seen)
                    if why:
                        continue
                if file.stat.st_size >= _FROZEN_BYTES:
                    file.freeze(self._freezer)
                if self._read(file, before):
                    return
        raise LeftOutError(Skipped(item.path, SkipKind.TORN, why))

    def _open(self, item: Scanned, reading: int) -> CaptureFile:
        """The file, frozen before or as it is now, in a state whose change its ctime would show.

        Raises LeftOutError, and `MovedOnError` where it belongs to others and is gone.
        """
        frozen = self._frozen.pop(item.path, None)
        if frozen is not None and not reading:
            return frozen
        try:
            file = open_for_capture(self._scan, item)
            if self._is_young(file.stat):
                file.close()
                self._stop.wait(TICK_NS / 1e9)
                file = open_for_capture(self._scan, item)
        except LeftOutError as error:
            if error.skipped.kind is SkipKind.VANISHED and not self._last:
                raise MovedOnError from None
            raise
        return file

    def _doubt_later_state(self, file: CaptureFile, seen: SeenFile | None) -> str:
        """Why a state of a file that the plan did not see is not to be believed, or nothing.

        Raises `MovedOnError` where others belong to it, or may.
        """
        if not self._last and (seen is None or seen.in_set):
            raise MovedOnError
        if seen is None:
            return "appeared while the snapshot was taken"
        if seen.in_set:
            return "changed while the rest of its checkpoint was read"
        # Imported here: an unchanged model is told without the parsers.
        from backupd.capture.containers.bounded import read_at_descriptor
        from backupd.capture.openness import find_writers
        from backupd.capture.wholeness.files import judge_file
        from backupd.capture.wholeness.verdict import WHOLE

        name = name_of(file.path)
        judgement = judge_file(read_at_descriptor(file.fd), file.stat.st_size, name)
        if judgement != WHOLE:
            return judgement.reason
        key = (file.stat.st_dev, file.stat.st_ino)
        writers = find_writers({key: name}, own_pid=os.getpid())
        return f"is open for writing by {writers[key]}" if writers else ""

    def _is_young(self, found: os.stat_result) -> bool:
        """Whether a write now could leave the ctime as it is; see `metadata.settled_ctime_ns`."""
        return 0 <= int(self._clock() * 1e9) - found.st_ctime_ns <= TICK_NS

    def _read(self, file: CaptureFile, before: PreviousEntry | None) -> bool:
        """Read a file into the sink; whether it held still. Raises LeftOutError."""
        now_ns = int(self._clock() * 1e9)
        notes: list[Skipped] = []
        path = file.path
        metadata = self._scan.metadata(
            Scanned(path, FileType.FILE, file.stat),
            now_ns=now_ns,
            skipped=notes,
            fd=file.attributes_fd,
            stat=file.stat,
        )
        extents = file.extents()
        with self._inspection.beside(path, file):
            stored = self._sink.read(file, extents)
        if not file.unchanged():
            return False
        self.left_out.extend(notes)
        self._sink.accept(stored, KeptFile(path, metadata, extents, before))
        return True
