"""A target that is a folder on a network mount: a disk's folder, and what such mounts add.

The mount may be absent, or another one; its handles may go stale, its server may hang, and its
client may not have written yet.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from backupd.errors import TargetError, TargetUnreachableError
from backupd.targets import folders
from backupd.targets.base import Buffer, check_name
from backupd.targets.hanging import HangGuard
from backupd.targets.local import FolderTarget, create_folder
from backupd.targets.oserrors import translate
from backupd.targets.parts import PartsReader

_Result = TypeVar("_Result")

HANG_SECONDS = 180.0
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
# Whose repository it is: what tells one disk from another under the same path.
_IDENTITY = "repository.json"
_MAX_IDENTITY = 64 * 1024
# Objects up to here are read back whole, of larger ones so much at each end.
_SMALL_BYTES = 1 << 20
_END_BYTES = 64 << 10
_STEP_BYTES = 1 << 20


class MountTarget(FolderTarget):
    """A `Target` in the folder `root` of a mount.

    With `require_mount` every operation first sees that the folder it opened is not on the root
    filesystem, so that nothing is ever written under an absent mount, and when the mount has
    changed, that the same repository is on it. An object counts as stored only once it has been
    opened afresh, has its full size and gives back what was put: its ends, or with
    `read_back_whole` all of it. An operation that does not end within `hang_seconds` is given up.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        *,
        require_mount: bool = True,
        read_back_whole: bool = False,
        hang_seconds: float = HANG_SECONDS,
    ) -> None:
        super().__init__(name, root)
        self._require_mount = require_mount
        self._read_back_whole = read_back_whole
        self._guard = HangGuard(name, self._root, hang_seconds)
        self._seen: tuple[int, int, int] | None = None
        self._identity: bytes | None = None

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `Target.read_into`.

        By way of a buffer of the reading thread: one that was given up on may still read when the
        caller's is used for something else.
        """
        check_name(name)
        view = buffer.cast("B")

        def read(descriptor: int) -> None:
            scratch = self._guard.scratch(view.nbytes)
            self._fill(descriptor, name, offset, scratch)
            attempt = self._guard.current()
            with attempt.lock:
                if not attempt.given_up:
                    view[:] = scratch

        self._read(name, read)

    def close(self) -> None:
        """See `Target.close`. Files of a mount that hangs are left open."""
        try:
            self._guard.run(super().close, last=True)
        except TargetUnreachableError:
            self._guard.end_idle()

    def _attempt(self, name: str, action: Callable[[], _Result], *, writing: bool) -> _Result:
        return self._guard.run(lambda: self._attempt_here(name, action, writing=writing))

    def _attempt_here(self, name: str, action: Callable[[], _Result], *, writing: bool) -> _Result:
        try:
            return super()._attempt(name, action, writing=writing)
        except TargetUnreachableError as error:
            cause = error.__cause__
            if not (isinstance(cause, OSError) and cause.errno == errno.ESTALE):
                raise
            # The server was restarted or replaced the file: handles are dead, names are not.
            self._handles.drop(name)
            self._folders_seen.clear()
            if writing:
                # It may have taken effect: left to `RetryTarget`, which knows its own object.
                raise
        return super()._attempt(name, action, writing=writing)

    def _drop(self, name: str) -> None:
        # Closing a file asks the server as well.
        self._guard.run(lambda: self._handles.drop(name))

    def _give_name(self, root: int, temporary: str, name: str, *, replace: bool) -> bool:
        attempt = self._guard.current()
        with attempt.lock:
            given_up = attempt.given_up
        if given_up:
            # Nobody waits any more, and the caller's bytes may have been others meanwhile.
            raise TargetUnreachableError(f"target {self._name!r}: {name} was given up")
        return super()._give_name(root, temporary, name, replace=replace)

    def _open_root(self) -> int:
        root = super()._open_root()
        if self._require_mount:
            try:
                if not _is_mounted(root):
                    raise _absent_mount(self._name, self._root)
                self._see_identity(root)
            except BaseException:
                os.close(root)
                raise
        return root

    def _see_identity(self, root: int) -> None:
        """See that the folder is on the mount it was on, or that the same repository is there."""
        try:
            about = os.stat(_IDENTITY, dir_fd=root, follow_symlinks=False)
            # The numbers of devices and mounts are given out again; a time is not.
            seen = (about.st_dev, about.st_ino, about.st_mtime_ns)
        except FileNotFoundError:
            seen = None
        if seen == self._seen and (seen is not None or self._identity is None):
            return
        found = _read_identity(root) if seen is not None else None
        if self._identity is not None and found != self._identity:
            what = "another repository" if found is not None else "no repository"
            raise TargetUnreachableError(
                f"target {self._name!r} cannot be reached: another disk or share is mounted at"
                f" {self._root}, with {what} on it",
                hint="mount the right one; to use the other, restart backupd and see what it says",
            )
        self._identity = found
        self._seen = seen
        self._folders_seen.clear()

    def _confirm(self, root: int, name: str, parts: Sequence[Buffer], size_bytes: int) -> None:
        """Read the object back through a fresh open, for which an NFS client asks the server
        (nfs(5), close-to-open consistency); kopia 1879 is what comes of trusting it instead."""
        descriptor = os.open(name, _READ, dir_fd=root)
        try:
            found = os.fstat(descriptor).st_size
            if found != size_bytes:
                raise self._lost(name, f"of the {size_bytes} bytes written to", f"shows {found}")
            if size_bytes <= _SMALL_BYTES or self._read_back_whole:
                ranges = [(0, size_bytes)]
            else:
                ranges = [(0, _END_BYTES), (size_bytes - _END_BYTES, size_bytes)]
            for start, stop in ranges:
                if not _is_same(descriptor, parts, start, stop):
                    raise self._lost(name, "what was written to", "gives back other bytes")
        except TargetUnreachableError:
            # Under its name it would be taken for what was put.
            folders.remove(root, name)
            raise
        finally:
            os.close(descriptor)

    def _lost(self, name: str, what: str, instead: str) -> TargetError:
        return TargetUnreachableError(
            f"target {self._name!r}: {what} {self._path(name)} the server {instead}",
            hint="the server or its mount loses writes; see its log and the mount options",
        )


def create_mounted_folder(name: str, root: Path, *, require_mount: bool = True) -> None:
    """As `local.create_folder`, but with `require_mount` only below a mount that is there."""

    def create() -> None:
        if require_mount:
            _require_mount_above(name, root)
        create_folder(name, root)

    HangGuard(name, os.path.abspath(root), HANG_SECONDS).run(create, last=True)


def _require_mount_above(name: str, root: Path) -> None:
    place = os.path.abspath(root)
    while not os.path.isdir(place) and place != "/":
        place = os.path.dirname(place)
    try:
        descriptor = os.open(place, _PLACE)
    except OSError as error:
        raise translate(error, name, place, writing=True) from error
    try:
        if not _is_mounted(descriptor):
            raise _absent_mount(name, str(root))
    finally:
        os.close(descriptor)


def _read_identity(root: int) -> bytes | None:
    try:
        descriptor = os.open(_IDENTITY, _READ, dir_fd=root)
    except FileNotFoundError:
        return None
    try:
        return os.read(descriptor, _MAX_IDENTITY)
    finally:
        os.close(descriptor)


def _is_same(descriptor: int, parts: Sequence[Buffer], start: int, stop: int) -> bool:
    """Whether the file gives back the bytes `start` to `stop` of `parts`, not from the cache if
    the system lets go of it."""
    if start == stop:
        return True
    os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)
    written = PartsReader(parts, start, stop)
    while step := written.read(_STEP_BYTES):
        # Two runs of bytes are compared at once, two views byte by byte.
        if os.pread(descriptor, len(step), start) != bytes(step):
            return False
        start += len(step)
    return True


def _is_mounted(folder: int) -> bool:
    """Whether the open `folder` lies on another mount than `/`; bind mounts count."""
    if os.fstat(folder).st_dev != os.stat("/").st_dev:
        return True
    base = os.open("/", _PLACE)
    try:
        return _mount_id(folder) != _mount_id(base)
    finally:
        os.close(base)


def _mount_id(descriptor: int) -> str:
    """The kernel's number of the mount that `descriptor` lies on (proc(5), fdinfo); empty where
    /proc is not there to ask."""
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as lines:
            return next((line for line in lines if line.startswith("mnt_id:")), "")
    except OSError:
        return ""


def _absent_mount(name: str, root: str) -> TargetError:
    return TargetUnreachableError(
        f"target {name!r} cannot be reached: nothing is mounted at {root}, "
        "and what is written there would fill the root filesystem",
        hint="mount it; where it is meant to be a plain folder, set `require_mount: false`",
    )
