"""A target that is a folder on a network mount: a disk's folder, and what such mounts add.

The mount may be absent, its handles may go stale, and its client may not have written yet.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from backupd.errors import TargetError, TargetUnreachableError
from backupd.targets.local import FolderTarget, create_folder
from backupd.targets.oserrors import translate

_Result = TypeVar("_Result")

_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class MountTarget(FolderTarget):
    """A `Target` in the folder `root` of a mount.

    With `require_mount` every operation first sees that the folder it opened is not on the root
    filesystem, so that nothing is ever written under an absent mount. An object counts as stored
    only once it has been opened afresh and has its full size.
    """

    def __init__(self, name: str, root: Path, *, require_mount: bool = True) -> None:
        super().__init__(name, root)
        self._require_mount = require_mount

    def _attempt(self, name: str, action: Callable[[], _Result], *, writing: bool) -> _Result:
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

    def _open_root(self) -> int:
        root = super()._open_root()
        if self._require_mount and not _is_mounted(root):
            os.close(root)
            raise _absent_mount(self._name, self._root)
        return root

    def _confirm(self, root: int, name: str, size_bytes: int) -> None:
        """See the object through a fresh open, for which an NFS client asks the server (nfs(5),
        close-to-open consistency); kopia 1879 is what comes of trusting it instead."""
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=root)
        try:
            found = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        if found != size_bytes:
            raise TargetUnreachableError(
                f"target {self._name!r}: of the {size_bytes} bytes written to "
                f"{self._path(name)} the server shows {found}",
                hint="the server or its mount loses writes; see its log and the mount options",
            )


def create_mounted_folder(name: str, root: Path, *, require_mount: bool = True) -> None:
    """As `local.create_folder`, but with `require_mount` only below a mount that is there."""
    if require_mount:
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
    create_folder(name, root)


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
