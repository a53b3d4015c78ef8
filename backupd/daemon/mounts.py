"""On what kind of filesystem a folder lies, from the text of /proc/self/mountinfo (proc(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

# Where another machine may write, inotify(7) sees only what this one does.
_NETWORK = frozenset(
    (
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs", "gfs2", "glusterfs",
        "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "prl_fs", "smb2",
        "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs", "wekafs",
    )
)  # fmt: skip
# The programs behind FUSE that serve this machine's own disks; of others one cannot know.
_LOCAL_FUSE = frozenset(
    (
        "fuse.bindfs", "fuse.encfs", "fuse.ext2", "fuse.fuse-overlayfs", "fuse.gocryptfs",
        "fuse.mergerfs", "fuse.ntfs-3g", "fuse.zfs",
    )
)  # fmt: skip
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount: where it is, and the filesystem's type, as `fuse.sshfs`."""

    point: PurePosixPath
    type: str

    @property
    def remote(self) -> bool:
        """Whether changes may happen there that inotify does not tell."""
        if self.type.startswith("fuse.") or self.type == "fuse":
            return self.type not in _LOCAL_FUSE
        return self.type in _NETWORK


def parse_mounts(text: str) -> list[Mount]:
    """The mounts, in the order in which they were made: a later one hides those below it."""
    mounts = []
    for line in text.splitlines():
        left, dash, right = line.partition(" - ")
        fields = left.split(" ")
        if not dash or len(fields) < 5:
            continue
        # Names are bytes; the reader of the file gives them with surrogates, octal escapes come
        # only for white space and the backslash.
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
        mounts.append(Mount(PurePosixPath(point), right.split(" ")[0]))
    return mounts


def remote_mount(path: PurePosixPath, mounts: list[Mount], *, below: bool) -> Mount | None:
    """The remote mount that `path` (real, absolute) lies on, or with `below` that lies in it."""
    holding: Mount | None = None
    for mount in mounts:
        if path.is_relative_to(mount.point) and (
            holding is None or len(mount.point.parts) >= len(holding.point.parts)
        ):
            holding = mount
    if holding is not None and holding.remote:
        return holding
    if below:
        for mount in mounts:
            if mount.remote and mount.point.is_relative_to(path):
                return mount
    return None
