"""Reading a scanned file into the caller's buffers, and noticing that it changed meanwhile.

Nothing here waits or tries again: the caller decides on a second reading.
"""

from __future__ import annotations

import errno
import os
import stat
from types import TracebackType

from backupd.capture.folders import name_of
from backupd.capture.freeze import Freezer
from backupd.capture.scan import LeftOutError, Scan, Scanned, SkipKind, Skipped
from backupd.repository.tree import Metadata

Buffer = bytearray | memoryview

_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
"""O_NONBLOCK, since what was a file at the scan may be a FIFO by now, whose open would wait."""

_LARGE_BYTES = 8 << 20
_PROBES = 16


class CaptureFile:
    """A regular file open for capture; a context manager.

    `stat` is that of the open file before the first byte is read, and is what the snapshot
    keeps; where it differs from the scan's, the file was written to or renamed over since.
    Reads of separate places may come from several threads.
    """

    __slots__ = ("_evict", "_freezer", "_source", "fd", "path", "stat")

    def __init__(self, fd: int, path: bytes, found: os.stat_result) -> None:
        """Take over `fd`, which is closed with this object."""
        self.fd = fd
        self.path = path
        self.stat = found
        self._evict = False
        self._source = -1
        self._freezer: Freezer | None = None
        if found.st_size >= _LARGE_BYTES:
            self._evict = not _is_cached(fd, found.st_size)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def __enter__(self) -> CaptureFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; once only has an effect."""
        for fd in (self.fd, self._source):
            if fd >= 0:
                os.close(fd)
        self.fd = self._source = -1
        if self._freezer is not None:
            self._freezer.release()
            self._freezer = None

    @property
    def frozen(self) -> bool:
        """Whether a clone is read."""
        return self._freezer is not None

    @property
    def attributes_fd(self) -> int:
        """The descriptor of the file itself, which has attributes that a clone has not."""
        return self._source if self._source >= 0 else self.fd

    def extents(self) -> tuple[tuple[int, int], ...]:
        """Where data lies, as (offset, length) in bytes, ascending; `()` where there are no holes.

        A file that is one hole gives `((0, 0),)`, so that it differs from one without holes.
        Raises LeftOutError.
        """
        size = self.stat.st_size
        # Without fewer blocks than bytes there is no hole worth the search (512: see stat(2)).
        if self.stat.st_blocks * 512 >= size:
            return ()
        found: list[tuple[int, int]] = []
        position = 0
        try:
            while position < size:
                try:
                    start = os.lseek(self.fd, position, os.SEEK_DATA)
                except OSError as error:
                    if error.errno == errno.ENXIO:  # only a hole up to the end
                        break
                    raise
                if start >= size:
                    break
                position = min(os.lseek(self.fd, start, os.SEEK_HOLE), size)
                found.append((start, position - start))
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # a filesystem without the notion
                return ()
            raise LeftOutError(_unreadable(self.path, error)) from None
        if found == [(0, size)]:
            return ()
        return tuple(found) or ((0, 0),)

    def read_into(self, buffer: Buffer, offset: int) -> int:
        """Fill `buffer` from the file's `offset` on; returns the bytes read.

        Fewer than the buffer holds only at the end of the file. Raises LeftOutError.
        """
        view = memoryview(buffer)
        wanted = len(view)
        done = 0
        try:
            while done < wanted:
                count = os.preadv(self.fd, [view[done:] if done else view], offset + done)
                if count == 0:
                    break
                done += count
            if self._evict and done:
                os.posix_fadvise(self.fd, offset, done, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise LeftOutError(_unreadable(self.path, error)) from None
        return done

    def freeze(self, freezer: Freezer) -> None:
        """Read from a clone from here on, where the filesystem can make one.

        The clone is taken only where the file is, right after it was made, what `stat` says.
        """
        if self.frozen:
            return
        copy = freezer.clone(self.fd)
        if copy is None:
            return
        if not self.unchanged():
            os.close(copy)
            freezer.release()
            return
        self.fd, self._source, self._freezer = copy, self.fd, freezer

    def unchanged(self) -> bool:
        """Whether size, mtime and ctime are still those of before the first read.

        To be asked after the last read; only then is what was read one state of the file. A
        clone never changes.
        """
        if self._freezer is not None:
            return True
        now = os.fstat(self.fd)
        before = self.stat
        return (
            now.st_ctime_ns == before.st_ctime_ns
            and now.st_mtime_ns == before.st_mtime_ns
            and now.st_size == before.st_size
        )


def open_for_capture(scan: Scan, scanned: Scanned) -> CaptureFile:
    """Open a scanned FILE (or the file of a HARDLINK) below the scan's root.

    No symlink is followed, the atime is left alone where that is permitted, and what is opened
    is a regular file. Another inode than the scanned one is taken where the file was replaced by
    a rename, as checkpoint writers do, but not where it had hard links, which would then be tied
    to the wrong content. Raises LeftOutError.
    """
    path = scanned.path
    folder = scan.folder_of(path)
    try:
        fd = _open(name_of(path), folder.fd)
    except OSError as error:
        raise LeftOutError(_unreadable(path, error)) from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise LeftOutError(_vanished(path))
        then = scanned.stat
        if then.st_nlink > 1 and (then.st_ino, then.st_dev) != (found.st_ino, found.st_dev):
            raise LeftOutError(_vanished(path))
        return CaptureFile(fd, path, found)
    except BaseException:
        os.close(fd)
        raise


def read_small(
    scan: Scan, scanned: Scanned, buffer: memoryview, *, now_ns: int, skipped: list[Skipped]
) -> Metadata | None:
    """Fill `buffer`, which has the scanned size, with a FILE; its Metadata.

    The way of `open_for_capture` with half the steps, which of a small file is most of its time.
    None where the file is not, after it was read, what the scan saw: then that other way tells
    what it is. `now_ns` and `skipped` are those of `Scan.metadata`.
    """
    then = scanned.stat
    try:
        fd = _open(name_of(scanned.path), scan.folder_of(scanned.path).fd)
    except OSError:
        return None
    try:
        if os.preadv(fd, [buffer], 0) != then.st_size:
            return None
        found = os.fstat(fd)
        if (
            found.st_ctime_ns != then.st_ctime_ns
            or found.st_mtime_ns != then.st_mtime_ns
            or found.st_size != then.st_size
            or found.st_ino != then.st_ino
            or found.st_dev != then.st_dev
        ):
            return None
        return scan.metadata(scanned, now_ns=now_ns, skipped=skipped, fd=fd, stat=found)
    except OSError:
        return None
    finally:
        os.close(fd)


def _open(name: bytes, folder_fd: int) -> int:
    try:
        return os.open(name, _OPEN_FLAGS | os.O_NOATIME, dir_fd=folder_fd)
    except PermissionError:
        # EPERM: O_NOATIME is for the owner and CAP_FOWNER alone (open(2)).
        return os.open(name, _OPEN_FLAGS, dir_fd=folder_fd)


def _is_cached(fd: int, size: int) -> bool:
    """Whether any of some places of the file is in the page cache before we read it.

    What a training job holds in the cache is to stay there, and what only we bring in is to go
    again behind us, or the capture of a large model would push the job's data out. Python has no
    mincore(2), and it needs a mapping; RWF_NOWAIT (preadv2(2)) answers EAGAIN for what is not
    cached. A file that is partly cached is left alone as a whole: keeping too much costs
    nothing that the kernel's own replacement does not mend.
    """
    place = bytearray(1)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # or each question would start a readahead
    for probe in range(_PROBES):
        try:
            os.preadv(fd, [place], size * probe // _PROBES, os.RWF_NOWAIT)
        except BlockingIOError:
            continue
        except OSError:
            return True  # this filesystem does not tell
        return True
    return False


def _vanished(path: bytes) -> Skipped:
    return Skipped(path, SkipKind.VANISHED, "was deleted or replaced before it was read")


def _unreadable(path: bytes, error: OSError) -> Skipped:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
        return _vanished(path)
    return Skipped(path, SkipKind.UNREADABLE, f"cannot be read: {error.strerror}")
