"""Operations on a mount that may hang, done in threads that can be given up on.

A call to a mount whose server is gone may never return, and no signal ends it. So each is made by
a thread of its own; who waits for it stops waiting after a time, and is told. The thread is left
behind, and until it comes back nothing else is tried there, so that there is never a second one.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from backupd.errors import TargetUnreachableError

_Result = TypeVar("_Result")

# Since when an operation hangs, by place. Kept for the process, as each job opens its targets anew.
_stuck: dict[str, list[float]] = {}
_stuck_lock = threading.Lock()


@dataclass(slots=True, eq=False)
class Attempt:
    """One operation. `lock` is held by its thread while it touches what belongs to the caller."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    done: threading.Event = field(default_factory=threading.Event)
    given_up: bool = False
    result: Any = None
    error: BaseException | None = None


class HangGuard:
    """Does operations on `place` for the target `name`, each for at most `seconds`."""

    def __init__(self, name: str, place: str, seconds: float) -> None:
        self._name = name
        self._place = place
        self._seconds = seconds
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._local = threading.local()

    def run(self, action: Callable[[], _Result], *, last: bool = False) -> _Result:
        """What `action` gives or raises; `TargetUnreachableError` when it did not end in time.

        `last` says that no more will be asked for, so that no thread is kept.
        """
        self._refuse_while_stuck()
        try:
            worker = self._idle.get_nowait()
        except queue.Empty:
            worker = _Worker(self._local)
        attempt = Attempt()
        worker.take(attempt, action)
        if not attempt.done.wait(self._seconds) and self._give_up(attempt):
            raise TargetUnreachableError(
                f"target {self._name!r} hangs: {self._place} did not answer for"
                f" {self._seconds:.0f} s",
                hint="see whether its server runs (`dmesg`); `umount -f -l` lets go of a mount"
                " whose server does not come back",
            )
        attempt.done.wait()
        if last:
            worker.end()
            self.end_idle()
        else:
            self._idle.put(worker)
        if attempt.error is not None:
            raise attempt.error
        return attempt.result  # type: ignore[no-any-return]

    def current(self) -> Attempt:
        """The attempt that this thread, one of the guard's own, is at."""
        attempt: Attempt = self._local.attempt
        return attempt

    def scratch(self, size: int) -> memoryview:
        """A buffer of this thread, for what may only go to the caller when it is all there."""
        kept: bytearray | None = getattr(self._local, "scratch", None)
        if kept is None or len(kept) < size:
            kept = self._local.scratch = bytearray(size)
        return memoryview(kept)[:size]

    def end_idle(self) -> None:
        """End the threads that wait for work."""
        while True:
            try:
                self._idle.get_nowait().end()
            except queue.Empty:
                return

    def _refuse_while_stuck(self) -> None:
        with _stuck_lock:
            since = _stuck.get(self._place)
            if not since:
                return
            seconds = time.monotonic() - since[0]
        raise TargetUnreachableError(
            f"target {self._name!r} hangs: {self._place} has not answered for {seconds:.0f} s",
            hint="see whether its server runs (`dmesg`); `umount -f -l` lets go of a mount whose"
            " server does not come back",
        )

    def _give_up(self, attempt: Attempt) -> bool:
        """Leave the attempt to its thread; false where it ended just now."""
        began = time.monotonic() - self._seconds
        with _stuck_lock, attempt.lock:
            if attempt.done.is_set():
                return False
            attempt.given_up = True
            _stuck.setdefault(self._place, []).append(began)
        threading.Thread(
            target=_forget_when_done, args=(self._place, began, attempt), daemon=True
        ).start()
        return True


class _Worker:
    """A thread that does one operation after another."""

    def __init__(self, local: threading.local) -> None:
        self._local = local
        self._work: queue.SimpleQueue[tuple[Attempt, Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        # A daemon thread: one that hangs in the kernel must not keep the process.
        threading.Thread(target=self._run, name="mount", daemon=True).start()

    def take(self, attempt: Attempt, action: Callable[[], Any]) -> None:
        """Do `action` for `attempt`."""
        self._work.put((attempt, action))

    def end(self) -> None:
        """End the thread when it has nothing to do."""
        self._work.put(None)

    def _run(self) -> None:
        while (task := self._work.get()) is not None:
            attempt, action = task
            self._local.attempt = attempt
            try:
                attempt.result = action()
            except BaseException as error:
                attempt.error = error
            with attempt.lock:
                attempt.done.set()
            if attempt.given_up:
                return
            del task, attempt, action


def _forget_when_done(place: str, began: float, attempt: Attempt) -> None:
    attempt.done.wait()
    with _stuck_lock:
        left = _stuck[place]
        left.remove(began)
        if not left:
            del _stuck[place]
