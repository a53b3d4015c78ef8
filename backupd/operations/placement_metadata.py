"""Gives restored paths their owner, mode, extended attributes and times."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
from collections.abc import Callable, Mapping

from backupd.capture.folders import shown
from backupd.repository.tree import Metadata

_ACCESS_ACL = b"system.posix_acl_access"
_DEFAULT_ACL = b"system.posix_acl_default"
_OURS_TO_REMOVE = (b"user.", b"system.posix_acl_")

Warn = Callable[[bytes, str], None]


class MetadataWriter:
    """Applies Metadata to open files; what the system refuses is told to `warn(path, reason)`.

    Owners go by name where this box knows the name, else (and with `numeric_owner`) by number.
    Without root only a group of one's own is set, and no setuid or setgid bit is given to an
    owner it was not meant for.
    """

    def __init__(self, *, numeric_owner: bool, warn: Warn) -> None:
        self._numeric = numeric_owner
        self._warn = warn
        self._uid = os.geteuid()
        self._groups = frozenset((*os.getgroups(), os.getegid()))
        self._uids: dict[tuple[str, int], int] = {}
        self._gids: dict[tuple[str, int], int] = {}

    def apply(
        self,
        fd: int,
        path: bytes,
        metadata: Metadata,
        found: os.stat_result,
        *,
        inherited_acl: bool = False,
        is_new: bool = True,
    ) -> None:
        """Make the open file or folder what `metadata` says; `found` is its present stat.

        The order is the kernel's: a change of owner clears setuid bits and capabilities, an ACL
        changes the mode, and everything but utimensat moves the mtime's folder or the ctime only.
        Raises OSError for what is no matter of rights.
        """
        mode = stat.S_IMODE(metadata.mode)
        have = stat.S_IMODE(found.st_mode)
        uid = self._user(metadata)
        gid = self._group(metadata)
        if uid != found.st_uid or gid != found.st_gid:
            uid_set, gid_set = self._chown(fd, path, uid, gid, found)
            if (have | mode) & 0o7000:
                have = -1  # what a change of owner clears differs between files and folders
            if not uid_set:
                mode &= ~stat.S_ISUID
            if not gid_set:
                mode &= ~stat.S_ISGID
        wanted = metadata.xattrs
        if not is_new:
            self._remove_others(fd, wanted)
        elif inherited_acl:
            for name in (_ACCESS_ACL, _DEFAULT_ACL):
                if name not in wanted:
                    with contextlib.suppress(OSError):
                        os.removexattr(fd, name)
        if wanted:
            self._set_xattrs(fd, path, wanted)
        if mode != have or wanted or inherited_acl:
            try:
                os.fchmod(fd, mode)
            except PermissionError as error:
                self._warn(path, f"its mode could not be set: {error.strerror}")
        self.set_time(fd, path, metadata.mtime_ns)

    def apply_to_symlink(
        self, name: bytes, folder_fd: int, path: bytes, metadata: Metadata
    ) -> None:
        """The same for a symlink, which has no mode of its own."""
        if self._uid == 0:
            found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
            uid = self._user(metadata)
            gid = self._group(metadata)
            if uid != found.st_uid or gid != found.st_gid:
                try:
                    os.chown(name, uid, gid, dir_fd=folder_fd, follow_symlinks=False)
                except (PermissionError, OverflowError) as error:
                    self._warn(path, f"its owner could not be set: {error}")
        if metadata.xattrs:
            # The magic link names the open folder itself, whatever was renamed meanwhile.
            where = b"/proc/self/fd/%d/%b" % (folder_fd, name)
            self._set_xattrs(where, path, metadata.xattrs)
        times = (metadata.mtime_ns, metadata.mtime_ns)
        try:
            os.utime(name, ns=times, dir_fd=folder_fd, follow_symlinks=False)
        except (OSError, OverflowError) as error:
            self._warn(path, f"its time could not be set: {error}")

    def set_time(self, fd: int, path: bytes, mtime_ns: int) -> None:
        """Set mtime, and atime with it: it is not kept, and the file was last read then."""
        try:
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        except (PermissionError, OverflowError) as error:
            self._warn(path, f"its time could not be set: {error}")

    def _chown(
        self, fd: int, path: bytes, uid: int, gid: int, found: os.stat_result
    ) -> tuple[bool, bool]:
        """Set the owner as far as permitted; whether user and group are then right."""
        if self._uid == 0:
            try:
                os.fchown(fd, uid, gid)
                return True, True
            except (OSError, OverflowError) as error:
                # A user namespace or a squashing NFS export denies it even to root.
                self._warn(path, f"its owner could not be set: {error}")
                return uid == found.st_uid, gid == found.st_gid
        if gid != found.st_gid and gid in self._groups:
            with contextlib.suppress(OSError):
                os.fchown(fd, -1, gid)
                return uid == found.st_uid, True
        return uid == found.st_uid, gid == found.st_gid

    def _set_xattrs(self, where: int | bytes, path: bytes, wanted: Mapping[bytes, bytes]) -> None:
        for name, value in wanted.items():
            try:
                os.setxattr(where, name, value, follow_symlinks=isinstance(where, int))
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                self._warn(path, f"extended attribute {shown(name)} could not be set: {reason}")

    def _remove_others(self, fd: int, wanted: Mapping[bytes, bytes]) -> None:
        """Take away attributes that the snapshot does not have; the system's own stay."""
        with contextlib.suppress(OSError):
            for text in os.listxattr(fd):
                name = os.fsencode(text)
                if name not in wanted and name.startswith(_OURS_TO_REMOVE):
                    os.removexattr(fd, name)

    def _user(self, metadata: Metadata) -> int:
        key = (metadata.user, metadata.uid)
        known = self._uids.get(key)
        if known is None:
            known = metadata.uid
            if metadata.user and not self._numeric:
                with contextlib.suppress(KeyError, ValueError):
                    known = pwd.getpwnam(metadata.user).pw_uid
            self._uids[key] = known
        return known

    def _group(self, metadata: Metadata) -> int:
        key = (metadata.group, metadata.gid)
        known = self._gids.get(key)
        if known is None:
            known = metadata.gid
            if metadata.group and not self._numeric:
                with contextlib.suppress(KeyError, ValueError):
                    known = grp.getgrnam(metadata.group).gr_gid
            self._gids[key] = known
        return known
