"""Two folders change places, in one step where the system can, and a kill never leaves half.

The journal in the state folder says what a switch was about to do. Whoever starts next finds it
and ends the switch one way or the other; what was set aside is removed, unless something was
written to it in the meantime.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from backupd.capture.folders import OWN_TEMPORARY_PREFIX, shown
from backupd.errors import BackupdError
from backupd.operations.heads import Head, journal_place, write_head
from backupd.operations.installation import Installation
from backupd.operations.standing import look_at
from backupd.operations.state_file import replace_file

_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """What a switch is about to do, as its journal keeps it.

    `root` is the model's folder, `staged` where the version is built; where the two cannot be
    exchanged, the old one goes to `aside` first. Inodes say which folder stands where: `old_inode`
    is 0 where there is no old one, `new_inode` while the new one is built. `digest` is that of the
    old folder. `head` counts once the new folder is in its place. `discarding` says that what is
    in `staged` or `aside` is nobody's any more.
    """

    root: str
    staged: str
    aside: str
    old_inode: int
    new_inode: int
    digest: str
    head: Head
    discarding: bool = False


class Journal:
    """One model's journal; whoever has it has the model's folder to himself."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def write(self, plan: Plan) -> None:
        """Keep the plan, durably. Raises OSError."""
        replace_file(self._place, json.dumps(asdict(plan)).encode())

    def read(self) -> Plan | None:
        """The plan that was left, or None."""
        try:
            with self._place.open("rb") as file:
                value = json.loads(file.read(_MAX_BYTES))
            return Plan(**{**value, "head": Head(**value["head"])})
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def end(self) -> None:
        """Nothing is left to do."""
        self._place.unlink(missing_ok=True)


@contextmanager
def open_journal(installation: Installation, model: str) -> Iterator[Journal | None]:
    """The model's journal, or None where another process has it; let go of when that ends."""
    place = journal_place(installation.settings, model)
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(place.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield Journal(place)
    finally:
        os.close(lock)


def recover(installation: Installation, model: str, note: Callable[[str], None]) -> None:
    """End a switch of the model that was cut short, if there is one that nobody is about."""
    with open_journal(installation, model) as journal:
        if journal is not None:
            finish_left(installation, model, journal, note)


def finish_left(
    installation: Installation, model: str, journal: Journal, note: Callable[[str], None]
) -> None:
    """End what the journal says was begun. Raises OSError where the disk does not let it."""
    plan = journal.read()
    if plan is None:
        journal.end()
        return
    inode = _inode(plan.root)
    if inode is None and _inode(plan.aside) == plan.old_inode:
        # Between the two renames: the version was whole before the first.
        if _inode(plan.staged) == plan.new_inode:
            os.rename(plan.staged, plan.root)
        else:
            os.rename(plan.aside, plan.root)
        _sync_parent(plan.root)
        inode = _inode(plan.root)
    if inode == plan.new_inode:
        write_head(installation, model, plan.head)
        note(f"{model}: the switch to v{plan.head.version} that was cut short is done")
        left = plan.aside if _inode(plan.aside) == plan.old_inode else plan.staged
        if not plan.discarding and _inode(left) == plan.old_inode and _differs(left, plan):
            note(
                f"{model}: something was written to the folder as it was before the switch;"
                f" it is kept as {shown(os.fsencode(left))}"
            )
            journal.end()
            return
    elif inode == plan.old_inode:
        note(f"{model}: a switch to v{plan.head.version} was cut short; the folder is as it was")
    _remove_both(plan, journal, note)


def _remove_both(plan: Plan, journal: Journal, note: Callable[[str], None]) -> None:
    """Remove what is left beside the model; what stays is named, and tried again."""
    for left in (plan.staged, plan.aside):
        # The model's folder itself has another name, whatever the journal says.
        if os.path.basename(left).startswith(os.fsdecode(OWN_TEMPORARY_PREFIX)):
            try:
                remove(left)
            except BackupdError as error:
                note(error.message)
                return
    journal.end()


class Swapper:
    """Carries out the exchange of a plan; `exchange` is given, so that a test can do without."""

    def __init__(
        self, journal: Journal, plan: Plan, exchange: Callable[[str, str], bool] | None = None
    ) -> None:
        self._journal = journal
        self._exchange = exchange or rename_exchange
        self.plan = plan

    def swap(self) -> None:
        """The new folder takes the old one's place. Raises OSError; then nothing has changed."""
        plan = self.plan
        if not self._exchange(plan.staged, plan.root):
            os.rename(plan.root, plan.aside)
            try:
                os.rename(plan.staged, plan.root)
            except OSError:
                os.rename(plan.aside, plan.root)
                raise
        _sync_parent(plan.root)

    @property
    def old(self) -> str:
        """Where the old folder is after the swap."""
        return self.plan.aside if _inode(self.plan.aside) is not None else self.plan.staged

    def swap_back(self) -> None:
        """Undo a swap. Raises OSError."""
        plan = self.plan
        if self.old == plan.staged:
            self._exchange(plan.staged, plan.root)
        else:
            os.rename(plan.root, plan.staged)
            os.rename(plan.aside, plan.root)
        _sync_parent(plan.root)

    def discard(self, note: Callable[[str], None]) -> None:
        """Remove what is not in the model's place, and end the journal. Raises OSError."""
        self.plan = replace(self.plan, discarding=True)
        self._journal.write(self.plan)
        _remove_both(self.plan, self._journal, note)


def rename_exchange(one: str, other: str) -> bool:
    """Exchange two folders in one step (renameat2(2)); False where this filesystem cannot.

    Raises OSError for anything else that keeps it from being done.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), other)


def remove(folder: str) -> None:
    """Remove a folder with all that is in it, also where folders in it are read-only.

    Files keep their modes: one may be another name of a file that is in use elsewhere. Raises
    `BackupdError` where something stays.
    """

    def loosen(function: Callable[[str], object], path: str, error: object) -> None:
        for place in (os.path.dirname(path), path):
            if os.path.isdir(place) and not os.path.islink(place):
                with contextlib.suppress(OSError):
                    os.chmod(place, 0o700)
        with contextlib.suppress(OSError):
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.unlink(path)

    if os.path.lexists(folder):
        shutil.rmtree(folder, onerror=loosen)
    if os.path.lexists(folder):
        # What was emptied by the handler may be removed now.
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        raise BackupdError(
            f"{shown(os.fsencode(folder))} cannot be removed",
            hint="remove it by hand; nothing needs it",
        )


def _differs(folder: str, plan: Plan) -> bool:
    return look_at(os.fsencode(folder)).digest != plan.digest


def _inode(path: str) -> int | None:
    try:
        return os.lstat(path).st_ino
    except OSError:
        return None


def _sync_parent(path: str) -> None:
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
