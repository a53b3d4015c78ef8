"""Marks models as changed by inotify, through watchdog: a tick over an unchanged one is free.

Where inotify cannot serve, the watch says so and is not `reliable`; the folder is then scanned at
each tick. Nothing is decided here, and nothing read but the metadata of the model's root.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from backupd.capture.exclude import Exclusion
from backupd.config.settings import ModelSettings
from backupd.daemon.mounts import parse_mounts, remote_mount
from backupd.daemon.schedule import Watched

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver

LOOK_SECONDS = 5.0
# After a limit was met, inotify is tried again: the limit may have been raised.
_RETRY_LOOKS = 60
_MOUNTINFO = Path("/proc/self/mountinfo")
# Reading is no change; and of a folder only what is in it is, which has events of its own.
_EVENT_NAMES = (
    *("FileCreatedEvent", "FileModifiedEvent", "FileAttribEvent", "FileClosedEvent"),
    *("FileMovedEvent", "FileDeletedEvent"),
    *("DirCreatedEvent", "DirAttribEvent", "DirMovedEvent", "DirDeletedEvent"),
)
_IN_MODIFY = 0x2


class Mode(StrEnum):
    """How changes of a model are noticed."""

    STARTING = "starting"
    WATCHING = "watching"
    POLLING = "polling"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class WatchState:
    """How changes of a model are noticed now, and why not by events."""

    mode: Mode
    why: str = ""


class ModelWatch:
    """Watches one model's folder from a thread of its own.

    Setting up a watch walks the folder's tree, which may take long or hang on a dead mount, and
    so keeps nobody else waiting.
    """

    def __init__(
        self,
        model: ModelSettings,
        *,
        on_state: Callable[[WatchState], None] = lambda state: None,
        look_seconds: float = LOOK_SECONDS,
        mountinfo: Path = _MOUNTINFO,
        probe: Callable[[Path], str] | None = None,
    ) -> None:
        """`probe` says why a folder can have no (further) inotify watch, or nothing."""
        self.model = model
        self._on_state = on_state
        self._look_seconds = look_seconds
        self._mountinfo = mountinfo
        self._probe = probe or probe_inotify
        self._exclusion = Exclusion(model.exclude)
        self._changed = threading.Event()
        self._changed.set()
        self._state = WatchState(Mode.STARTING)
        self._stopping = threading.Event()
        self._observer: BaseObserver | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch-{model.name}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns at once."""
        self._stopping.set()

    @property
    def state(self) -> WatchState:
        """How changes are noticed now."""
        return self._state

    def seen(self) -> Watched:
        """What is known without looking. A watch whose thread died is not relied on."""
        reliable = self._state.mode is Mode.WATCHING and self._thread.is_alive()
        return Watched(reliable=reliable, changed=self._changed.is_set())

    def take(self) -> None:
        """What changed until now is about to be looked at; changes from here on mark again."""
        self._changed.clear()

    def mark(self) -> None:
        """The model must be looked at again."""
        self._changed.set()

    def _run(self) -> None:
        rest = 0
        identity: tuple[int, int] | None = None
        while True:
            if self._observer is not None:
                why = self._broken(identity)
                if why:
                    self._end_observer()
                    self.mark()
            if self._observer is None and rest <= 0:
                identity, state = self._begin()
                if state.mode is Mode.POLLING:
                    rest = _RETRY_LOOKS
                self._tell(state)
            rest -= 1
            if self._stopping.wait(self._look_seconds):
                self._end_observer()
                return

    def _begin(self) -> tuple[tuple[int, int] | None, WatchState]:
        try:
            # The root may be a symbolic link, as `current` often is; the watch is on what it means.
            root = Path(os.path.realpath(self.model.path))
            remote = self._remote(root)
            if remote:
                return None, WatchState(Mode.POLLING, remote)
            identity = _identity(self.model.path)
        except FileNotFoundError:
            return None, WatchState(Mode.MISSING, f"{self.model.path} is absent")
        except OSError as error:
            why = f"{self.model.path} cannot be looked at: {error.strerror}"
            return None, WatchState(Mode.MISSING, why)
        why = self._observe(root)
        # Only now: whatever happened while the watch was being set up has no event.
        self.mark()
        if why:
            self._end_observer()
            return None, WatchState(Mode.POLLING, why)
        return identity, WatchState(Mode.WATCHING)

    def _remote(self, root: Path) -> str:
        try:
            text = self._mountinfo.read_text("utf-8", "surrogateescape")
        except OSError as error:
            return f"the mounts of this machine cannot be read: {error.strerror}"
        below = not self.model.one_filesystem
        mount = remote_mount(PurePosixPath(root), parse_mounts(text), below=below)
        if mount is None:
            return ""
        return f"{mount.point} is {mount.type}, where inotify does not see what others write"

    def _observe(self, root: Path) -> str:
        # Imported here: watchdog costs 67 ms, and a daemon whose models are all remote needs none.
        from watchdog import events
        from watchdog.observers.inotify import InotifyObserver

        found = [getattr(events, name) for name in _EVENT_NAMES if hasattr(events, name)]
        on_event = self._on_event

        class Handler(events.FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                on_event(event)

        try:
            observer = self._observer = InotifyObserver()
            observer.schedule(Handler(), str(root), recursive=True, event_filter=found)
            observer.start()
        except OSError as error:
            return _explain(error)
        # watchdog does not tell of a folder within that could have no watch (7.1), so whether
        # there is room for one more is the sign that there was room for all.
        return self._probe(root)

    def _broken(self, identity: tuple[int, int] | None) -> str:
        """Why the watch is no longer one of the model's folder."""
        observer = self._observer
        if observer is None or not observer.is_alive():
            return "the observer ended"
        reader = getattr(observer, "_inotify_fd", None)
        threads = [*observer.emitters, *([reader] if reader is not None else [])]
        if not all(thread.is_alive() for thread in threads):
            return "the observer ended"
        try:
            if _identity(self.model.path) != identity:
                return "the folder was replaced"
        except OSError as error:
            return str(error.strerror)
        return self._probe(self.model.path)

    def _end_observer(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None and observer.is_alive():
            observer.stop()

    def _on_event(self, event: FileSystemEvent) -> None:
        if self._changed.is_set():
            return
        paths = [os.fsencode(path) for path in (event.src_path, event.dest_path) if path]
        if not all(self._excluded(path, folder=event.is_directory) for path in paths):
            self._changed.set()

    def _excluded(self, path: bytes, *, folder: bool) -> bool:
        """Whether a scan would pass the path by, for itself or for a folder that it lies in."""
        root = os.fsencode(os.path.realpath(self.model.path)) + b"/"
        if not self._exclusion or not path.startswith(root):
            return False
        names = path[len(root) :].split(b"/")
        return any(
            self._exclusion.excludes(b"/".join(names[:depth]), folder=folder or depth < len(names))
            for depth in range(1, len(names) + 1)
        )

    def _tell(self, state: WatchState) -> None:
        if state != self._state:
            self._state = state
            self._on_state(state)


def probe_inotify(folder: Path) -> str:
    """Why no further inotify watch could be had on `folder`; empty where one could."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    if descriptor < 0:
        return _explain(OSError(ctypes.get_errno(), ""))
    try:
        if libc.inotify_add_watch(descriptor, os.fsencode(folder), _IN_MODIFY) < 0:
            return _explain(OSError(ctypes.get_errno(), ""))
        return ""
    finally:
        os.close(descriptor)


def _explain(error: OSError) -> str:
    match error.errno:
        case errno.ENOSPC:
            return "inotify's limit is reached; raise fs.inotify.max_user_watches with sysctl"
        case errno.EMFILE:
            return "inotify's limit is reached; raise fs.inotify.max_user_instances with sysctl"
        case _:
            return f"inotify does not serve here: {os.strerror(error.errno or 0)}"


def _identity(path: Path) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino
