"""Files below an open root folder: made, written, flushed, listed and removed.

Every function takes the root's descriptor and names relative to it, and raises plain `OSError`.
What those errors mean for a target is said in `oserrors`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from itertools import islice

from backupd.targets.base import Buffer, ObjectInfo, is_name

# No object's name begins with a dot, so what lies here can never be listed or read as one.
TEMPORARY = ".tmp"

# What one writev takes at most (Linux, uio.h UIO_MAXIOV).
_MAX_PARTS = 1024
# What a filesystem answers that cannot do what was asked, as opposed to failing at it.
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


def make(root: int, folder: str) -> None:
    """Create `folder` and those above it with mode 0700 where absent, each made durable."""
    above = os.path.dirname(folder)
    try:
        os.mkdir(folder, 0o700, dir_fd=root)
    except FileExistsError:
        return
    except FileNotFoundError:
        if not above:
            raise
        make(root, above)
        make(root, folder)
        return
    descriptor = _open_folder(root, folder)
    try:
        set_mode(descriptor, 0o700)
    finally:
        os.close(descriptor)
    flush(root, above or ".")


def create(root: int, name: str) -> int:
    """A descriptor for writing the new file `name`, of mode 0600 whatever the umask is."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(name, flags, 0o600, dir_fd=root)
    try:
        set_mode(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_all(descriptor: int, parts: Sequence[Buffer]) -> None:
    """Write `parts` one after another without joining them, however little each call takes."""
    waiting = [view for part in parts if (view := memoryview(part).cast("B")).nbytes]
    waiting.reverse()
    while waiting:
        written = os.writev(descriptor, list(islice(reversed(waiting), _MAX_PARTS)))
        while waiting and written >= waiting[-1].nbytes:
            written -= waiting.pop().nbytes
        if written:
            waiting[-1] = waiting[-1][written:]


def flush(root: int, folder: str) -> None:
    """Make the names in `folder` durable, where the filesystem knows how to."""
    descriptor = _open_folder(root, folder)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # vfat, some FUSE and SMB mounts have no fsync for folders; they write names through.
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def scan(root: int, folder: str) -> list[ObjectInfo | str]:
    """What lies in `folder` (empty or ending in `/`), in name order: objects, and folders as
    names ending in `/`. Whatever could not be named by a target is left out."""
    try:
        descriptor = _open_folder(root, folder or ".")
    except (FileNotFoundError, NotADirectoryError):
        return []
    found: list[tuple[str, ObjectInfo | str]] = []
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                name = folder + entry.name
                if not is_name(name):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    found.append((f"{name}/", f"{name}/"))
                elif stat.S_ISREG(status.st_mode):
                    found.append((name, ObjectInfo(name, status.st_size, status.st_mtime)))
    finally:
        os.close(descriptor)
    # With its slash a folder sorts among files as the full names below it do.
    found.sort(key=lambda pair: pair[0])
    return [item for _, item in found]


def remove(root: int, name: str) -> None:
    """Remove a temporary file, as well as can be: the next sweep gets what stays."""
    try:
        os.unlink(name, dir_fd=root)
    except OSError:
        pass


def remove_older(root: int, folder: str, before: float) -> None:
    """Remove the files in `folder` that were last written before the time `before`."""
    descriptor = _open_folder(root, folder)
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                try:
                    if entry.stat(follow_symlinks=False).st_mtime < before:
                        os.unlink(entry.name, dir_fd=descriptor)
                except OSError:
                    continue  # another writer's sweep was first, or it is no file of ours
    finally:
        os.close(descriptor)


def memory_is_scarce() -> bool:
    """Whether keeping what was just written in the page cache would push something else out.

    While memory lies free, a restore soon after the snapshot is served from it at no cost. Once
    the cache has filled memory, which it does on any box that reads a data set, every page of
    ours takes the place of one that the training job has read; then ours are given back as soon
    as they are on disk. What is read is left to the kernel, which gives up pages read once first.
    """
    return os.sysconf("SC_AVPHYS_PAGES") < os.sysconf("SC_PHYS_PAGES") // 8


def _open_folder(root: int, folder: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(folder, flags, dir_fd=root)


def set_mode(descriptor: int, mode: int) -> None:
    """Undo what a umask or a default ACL made of the mode asked for, where modes exist at all."""
    if stat.S_IMODE(os.fstat(descriptor).st_mode) == mode:
        return
    try:
        os.fchmod(descriptor, mode)
    except OSError as error:
        if error.errno not in _UNSUPPORTED | {errno.EPERM}:
            raise
