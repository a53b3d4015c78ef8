"""How much a snapshot will have to read, found on the way, so that its bar knows an end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from backupd.capture.exclude import Exclusion
from backupd.capture.folders import FOLDER_FLAGS, OWN_TEMPORARY_PREFIX
from backupd.capture.scan import Scanned, ScanOptions
from backupd.operations.progress import NoProgress, Progress

# What is over sooner shows no bar, and a folder of small files takes longer to measure than to
# tell; before a large file there may be no other moment for a long time.
_SHORT_SECONDS = 1.0
_LARGE_BYTES = 64 << 20
_LOOK_SECONDS = 0.25
_AT_ONCE = 256


class Measuring:
    """Adds up the files that changed after `since` (epoch seconds).

    In steps of the thread that captures: one of its own would take the interpreter's lock from
    it at each file, which costs both of them ten times what a look at the file does. Nothing is
    done where nobody looks. It is an estimate: what was only touched is counted though it is
    read as well, what appears later is not.
    """

    def __init__(
        self,
        root: bytes,
        options: ScanOptions,
        since: float,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._clock = clock
        self._due = clock() + _SHORT_SECONDS
        self._left = None if isinstance(progress, NoProgress) else _sizes(root, options, since)

    def before(self, item: Scanned) -> None:
        """Look a little further, as `item` is about to be read."""
        if self._left is None:
            return
        now = self._clock()
        if item.stat.st_size >= _LARGE_BYTES:
            end = now + _LOOK_SECONDS
        elif now >= self._due:
            end = now
        else:
            return
        for size in self._left:
            self._progress.grow(size)
            if self._clock() >= end:
                return
        self._left = None


def _sizes(root: bytes, options: ScanOptions, since: float) -> Iterator[int]:
    """Bytes of files below `root` in portions; what cannot be looked at counts for nothing."""
    exclusion = Exclusion(options.exclude)
    try:
        device = os.stat(root).st_dev if options.one_filesystem else None
    except OSError:
        return
    folders = [b""]
    while folders:
        folder = folders.pop()
        prefix = folder + b"/" if folder else b""
        total = count = 0
        try:
            # By its descriptor, or the system would walk the whole path for each file.
            fd = os.open(os.path.join(root, folder), FOLDER_FLAGS if folder else os.O_DIRECTORY)
        except OSError:
            continue
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    count += 1
                    if count % _AT_ONCE == 0:
                        yield total
                        total = 0
                    is_folder = entry.is_dir(follow_symlinks=False)
                    if (is_folder or exclusion) and _left_out(exclusion, prefix, entry, is_folder):
                        continue
                    if not is_folder and not entry.is_file(follow_symlinks=False):
                        continue
                    found = entry.stat(follow_symlinks=False)
                    if not is_folder:
                        if found.st_ctime > since:
                            total += found.st_size // (found.st_nlink or 1)
                    elif device is None or found.st_dev == device:
                        folders.append(prefix + os.fsencode(entry.name))
        except OSError:
            pass
        finally:
            os.close(fd)
        yield total


def _left_out(
    exclusion: Exclusion, prefix: bytes, entry: os.DirEntry[str], is_folder: bool
) -> bool:
    name = os.fsencode(entry.name)
    return name.startswith(OWN_TEMPORARY_PREFIX) or exclusion.excludes(
        prefix + name, folder=is_folder
    )
