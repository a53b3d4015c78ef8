"""Which files other processes have open for writing, where /proc shows it (proc(5), fd and fdinfo).

Of processes of other users nothing is seen without root; that is no error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

FileId = tuple[int, int]
"""Device and inode: what a file is in every mount namespace."""

_O_ACCMODE = 0o3
_MAX_FDINFO = 4096


def find_writers(
    wanted: Mapping[FileId, bytes], *, proc: str = "/proc", own_pid: int
) -> dict[FileId, str]:
    """Of the files `wanted` (with their last path component), those open for writing, and by whom.

    Only descriptors whose path ends with a wanted name are looked at more closely: the path is
    that of the other process's namespace, but its end is the same.
    """
    names = set(wanted.values())
    found: dict[FileId, str] = {}
    if not wanted:
        return found
    try:
        pids = [int(name) for name in os.listdir(proc) if name.isdigit()]
    except OSError:
        return found
    for pid in pids:
        if pid == own_pid:
            continue
        folder = f"{proc}/{pid}/fd"
        try:
            numbers = os.listdir(folder)
        except OSError:
            continue  # it ended, or is not ours to look at
        for number in numbers:
            try:
                target = os.readlink(f"{folder}/{number}".encode())
                if target[target.rfind(b"/") + 1 :] not in names:
                    continue
                stat = os.stat(f"{folder}/{number}")
                key = (stat.st_dev, stat.st_ino)
                if key in wanted and key not in found and _writes(f"{proc}/{pid}", number):
                    found[key] = f"{_name(proc, pid)} (pid {pid})"
            except (OSError, ValueError):
                continue
    return found


def _writes(process: str, number: str) -> bool:
    with open(f"{process}/fdinfo/{number}", "rb") as file:
        for line in file.read(_MAX_FDINFO).splitlines():
            if line.startswith(b"flags:"):
                return int(line.split()[1], 8) & _O_ACCMODE != os.O_RDONLY
    return False


def _name(proc: str, pid: int) -> str:
    try:
        with open(f"{proc}/{pid}/comm", "rb") as file:
            name = file.read(64).decode("utf-8", "replace").strip()
    except OSError:
        return "a process"
    return name if name.isprintable() and name else "a process"
