"""The lock that lets only one daemon work in a state folder; it ends with its process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from backupd.errors import BackupdError

LOCK_NAME = "daemon.pid"
_MAX_PID = 32


class DaemonLock:
    """An flock(2) on `<state_dir>/daemon.pid`, which holds the owner's process id as text.

    The file stays when the daemon ends: removing it would let a third one lock another file of
    the same name.
    """

    def __init__(self, state_dir: Path) -> None:
        """Take the lock. Raises `BackupdError` that names the process that has it."""
        self.path = state_dir / LOCK_NAME
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
        except OSError as error:
            raise BackupdError(
                f"the state folder {state_dir} cannot be used: {error.strerror}",
                hint="choose another state_dir, or run as a user who may write there",
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._descriptor, _MAX_PID, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            who = f"process {owner}" if owner.isdecimal() else "another process"
            raise BackupdError(
                f"a daemon runs in {state_dir} already: {who}",
                hint="`backupd status` shows it; give a second daemon its own state_dir",
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next daemon in."""
        os.close(self._descriptor)

    def __enter__(self) -> DaemonLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
