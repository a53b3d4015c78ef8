"""A folder mounted through FUSE that fails as it is told: a network mount on a bad day.

A pass-through in a process of its own. What it is to do is read from a file before each
operation: lines `OPERATION=FAULT`, where a fault is the name of an error (ENOSPC), `hang`, or
`drop` (a write that is answered as if it had been done) or `hole` (zeros are written instead, in
the second mebibyte of a file). `case=folded` makes names of any case one. Needs libfuse and root.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PATIENCE_SECONDS = 100.0
_HOLE = (1 << 20, 2 << 20)
_OPERATIONS = [
    "getattr",
    "readdir",
    "mkdir",
    "unlink",
    "rename",
    "link",
    "create",
    "open",
    "read",
    "write",
    "flush",
    "fsync",
    "fsyncdir",
    "chmod",
    "release",
]


@dataclass(frozen=True, slots=True)
class FaultyMount:
    """`path` shows `backing`; `faults` says what fails."""

    path: Path
    backing: Path
    control: Path

    def faults(self, **faults: str) -> None:
        """From now on the operations fail in these ways, and all others work."""
        text = "".join(f"{operation}={fault}\n" for operation, fault in faults.items())
        beside = self.control.with_suffix(".new")
        beside.write_text(text)
        beside.replace(self.control)


@contextmanager
def faulty_mount(folder: Path) -> Iterator[FaultyMount]:
    """A mount below `folder` for the length of the block; what hangs then is let go."""
    mount = FaultyMount(folder / "mount", folder / "backing", folder / "faults")
    mount.path.mkdir(parents=True)
    mount.backing.mkdir()
    mount.faults()
    command = [sys.executable, "-m", "tests.rigs.faulty_mount"]
    process = subprocess.Popen(
        [*command, str(mount.backing), str(mount.path), str(mount.control)],
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    try:
        end = time.monotonic() + _PATIENCE_SECONDS
        while not os.path.ismount(mount.path):
            assert process.poll() is None and time.monotonic() < end, "the mount does not come up"
            time.sleep(0.02)
        yield mount
    finally:
        mount.faults()
        # Killed, as with it go the requests that hang: the kernel answers them with ENOTCONN.
        process.send_signal(signal.SIGKILL)
        process.wait()
        subprocess.run(["umount", "--lazy", str(mount.path)], check=False)


def _serve(backing: str, mount: str, control: str) -> None:
    import mfusepy

    class PassThrough(mfusepy.Operations):
        use_ns = True

        def _real(self, path: str) -> str:
            # With `case=folded` names of any case are one, as on FAT and most SMB shares.
            return backing + (path.lower() if _fault(control, "case") else path)

        def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
            found = os.lstat(self._real(path))
            return {
                key: getattr(found, key)
                for key in ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_ino")
            } | {key: getattr(found, f"{key}_ns") for key in ("st_mtime", "st_ctime", "st_atime")}

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", *os.listdir(self._real(path))]

        def mkdir(self, path: str, mode: int) -> int:
            os.mkdir(self._real(path), mode)
            return 0

        def rmdir(self, path: str) -> int:
            os.rmdir(self._real(path))
            return 0

        def unlink(self, path: str) -> int:
            os.unlink(self._real(path))
            return 0

        def rename(self, old: str, new: str) -> int:
            os.rename(self._real(old), self._real(new))
            return 0

        def link(self, target: str, source: str) -> int:
            os.link(self._real(source), self._real(target))
            return 0

        def chmod(self, path: str, mode: int) -> int:
            os.chmod(self._real(path), mode)
            return 0

        def truncate(self, path: str, length: int, fh: int | None = None) -> int:
            os.truncate(self._real(path), length)
            return 0

        def create(self, path: str, mode: int, fi: Any = None) -> int:
            return os.open(self._real(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

        def open(self, path: str, flags: int) -> int:
            return os.open(self._real(path), flags & ~os.O_NOFOLLOW)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return os.pread(fh, size, offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            return os.pwrite(fh, data, offset)

        def flush(self, path: str, fh: int) -> int:
            return 0

        def fsync(self, path: str, datasync: bool, fh: int) -> int:
            os.fsync(fh)
            return 0

        def fsyncdir(self, path: str, datasync: bool, fh: int) -> int:
            return 0

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

        def statfs(self, path: str) -> dict[str, int]:
            found = os.statvfs(self._real(path))
            return {key: getattr(found, key) for key in ("f_bavail", "f_bfree", "f_blocks",
                    "f_bsize", "f_files", "f_ffree", "f_frsize", "f_namemax")}  # fmt: skip

    for operation in _OPERATIONS:
        setattr(
            PassThrough, operation, _failing(operation, getattr(PassThrough, operation), control)
        )
    mfusepy.FUSE(PassThrough(), mount, foreground=True, direct_io=True, default_permissions=True)


def _failing(operation: str, act: Any, control: str) -> Any:
    """The operation, failing in the way that `control` says."""

    def failing(self: Any, path: str, *args: Any) -> Any:
        fault = _fault(control, operation)
        while fault == "hang":
            time.sleep(0.05)
            fault = _fault(control, operation)
        if fault == "drop":
            return len(args[0]) if operation == "write" else 0
        if fault == "hole" and _HOLE[0] <= args[1] < _HOLE[1]:
            act(self, path, bytes(len(args[0])), *args[1:])
            return len(args[0])
        if fault == "hole":
            return act(self, path, *args)
        if fault:
            raise OSError(getattr(errno, fault), os.strerror(getattr(errno, fault)))
        return act(self, path, *args)

    return failing


def _fault(control: str, operation: str) -> str:
    with open(control, encoding="ascii") as file:
        found = dict(line.strip().split("=") for line in file)
    return found.get(operation, "")


if __name__ == "__main__":
    _serve(*sys.argv[1:4])
