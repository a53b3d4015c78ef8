"""What stat and the extended attributes tell of a path, as the Metadata that a tree keeps."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable

from backupd.repository.tree import Metadata

XATTRS_LIMIT_BYTES = 1 << 20
"""Names and values kept per path. The kernel allows 64 KiB of names and 64 KiB for each value
(XATTR_LIST_MAX, XATTR_SIZE_MAX in linux/limits.h), which for one file could come to 600 MB."""

TICK_NS = 20_000_000
_COARSE_NS = 2_000_000_000

_NO_XATTRS: dict[bytes, bytes] = {}


def settled_ctime_ns(found: os.stat_result, now_ns: int) -> int:
    """The ctime to remember, or 0 where the path could change again without its ctime moving.

    Kernels before 6.13 stamp with the last timer tick (10 ms at HZ=100), old ext3 and some
    network filesystems with whole seconds, FAT with two. A change within the same tick as the
    one seen would look unchanged to the next scan, so such a file is to be read once more then.
    The same as git's "racy" index entries (Documentation/technical/racy-git.txt).
    """
    resolution = _COARSE_NS if found.st_ctime_ns % 1_000_000_000 == 0 else TICK_NS
    return found.st_ctime_ns if now_ns - found.st_ctime_ns > resolution else 0


class MetadataReader:
    """Turns stat results into Metadata; keeps the names of owners it has looked up.

    `left_out(what)` is told of attributes that could not be kept.
    """

    def __init__(self) -> None:
        self._users: dict[int, str] = {}
        self._groups: dict[int, str] = {}
        self._without_xattrs: set[int] = set()

    def metadata(
        self,
        found: os.stat_result,
        where: int | bytes,
        *,
        now_ns: int,
        left_out: Callable[[str], None],
    ) -> Metadata:
        """The Metadata of a path whose stat is `found`.

        `where` is its open descriptor, or for a symlink a path that leads safely to it.
        `now_ns` is the present time, for `settled_ctime_ns`.
        """
        uid = found.st_uid
        gid = found.st_gid
        user = self._users.get(uid)
        if user is None:
            user = self._users[uid] = _user_name(uid)
        group = self._groups.get(gid)
        if group is None:
            group = self._groups[gid] = _group_name(gid)
        mode = found.st_mode
        # By place, as there are as many as files and names take twice as long.
        return Metadata(
            mode,
            uid,
            gid,
            found.st_mtime_ns,
            settled_ctime_ns(found, now_ns),
            found.st_ino,
            found.st_dev,
            found.st_size if stat.S_ISREG(mode) else 0,
            user,
            group,
            self._xattrs(found.st_dev, where, left_out),
        )

    def _xattrs(
        self, device: int, where: int | bytes, left_out: Callable[[str], None]
    ) -> dict[bytes, bytes]:
        if device in self._without_xattrs:
            return _NO_XATTRS
        follow = isinstance(where, int)
        try:
            names = os.listxattr(where, follow_symlinks=follow)
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                self._without_xattrs.add(device)
            elif error.errno not in (errno.ENOENT, errno.EPERM, errno.EACCES):
                left_out(f"its extended attributes cannot be read: {error.strerror}")
            return _NO_XATTRS
        if not names:
            return _NO_XATTRS
        kept: dict[bytes, bytes] = {}
        total = 0
        for name in sorted(names):
            # ENODATA and its like: removed since it was listed, or not for our eyes.
            with contextlib.suppress(OSError):
                value = os.getxattr(where, name, follow_symlinks=follow)
                total += len(name) + len(value)
                if total > XATTRS_LIMIT_BYTES:
                    left_out(f"its extended attributes exceed {XATTRS_LIMIT_BYTES >> 20} MiB")
                    break
                kept[os.fsencode(name)] = value
        return kept


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""
