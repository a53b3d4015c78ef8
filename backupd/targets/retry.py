"""Trying again when a target does not answer, as a wrapper around any target.

When and how often lives here; which failures may pass is said by `TargetUnreachableError`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from backupd.errors import BackupdError, StoppedError, TargetError, TargetUnreachableError
from backupd.targets.base import Buffer, ObjectInfo, Target, total_size
from backupd.targets.wrapping import WrappedTarget

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to go on: at most `attempts` tries, and none after `budget_seconds` of tries and
    waits, but one more in any case.

    A target that has not answered yet, or has just been given up on, is worth `first_attempts`
    and `first_budget_seconds` with the first try alone: who has a wrong address in the
    configuration is not to wait for a minute, as one does for a server that is restarted in the
    middle of a snapshot, and what is left to do on one that hangs is not to hang as often.

    Before try n+1 it waits a random time up to `first_seconds` doubled n times, but at most
    `longest_seconds`: full jitter, as in "Exponential Backoff And Jitter", AWS Architecture
    Blog, 2015, which spreads the clients of a server that comes back.
    """

    attempts: int = 10
    first_attempts: int = 4
    first_seconds: float = 0.5
    longest_seconds: float = 15.0
    budget_seconds: float = 60.0
    first_budget_seconds: float = 20.0


class RetryTarget(WrappedTarget):
    """`target`, each of whose operations is tried again while it raises `TargetUnreachableError`.

    Once `stop` is set no wait is begun or finished: `StoppedError` is raised instead. `sleep`
    takes seconds (by default it waits for `stop`), `jitter` gives numbers from 0 to 1, `clock`
    seconds.
    """

    def __init__(
        self,
        target: Target,
        *,
        patience: Patience | None = None,
        stop: threading.Event | None = None,
        sleep: Callable[[float], object] | None = None,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(target)
        self._clock = clock
        self._patience = patience or Patience()
        self._stop = stop or threading.Event()
        self._sleep = sleep or self._stop.wait
        self._jitter = jitter
        self._answered = False

    def put(self, name: str, parts: Sequence[Buffer], *, warm: bool = False) -> None:
        """See `Target.put`."""
        self._try(lambda: self._target.put(name, parts, warm=warm))

    def put_if_absent(self, name: str, parts: Sequence[Buffer]) -> bool:
        """See `Target.put_if_absent`.

        Where an earlier try failed it may still have stored the object: then equal bytes under
        the name are taken for this call's own.
        """
        tries = 0

        def once() -> bool:
            nonlocal tries
            tries += 1
            if self._target.put_if_absent(name, parts):
                return True
            return tries > 1 and self._holds(name, parts)

        return self._try(once)

    def get(self, name: str, max_bytes: int) -> bytes:
        """See `Target.get`."""
        return self._try(lambda: self._target.get(name, max_bytes))

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """See `Target.read_into`."""
        self._try(lambda: self._target.read_into(name, offset, buffer))

    def stat(self, name: str) -> ObjectInfo | None:
        """See `Target.stat`."""
        return self._try(lambda: self._target.stat(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Target.list`; a listing cut short goes on after the last name it gave."""
        last = ""
        listing = self._target.list(prefix)

        def following() -> ObjectInfo | None:
            nonlocal listing
            try:
                return next((info for info in listing if info.name > last), None)
            except BackupdError:
                listing = self._target.list(prefix)
                raise

        while (info := self._try(following)) is not None:
            last = info.name
            yield info

    def delete(self, name: str) -> None:
        """See `Target.delete`."""
        self._try(lambda: self._target.delete(name))

    def delete_many(self, names: Sequence[str]) -> None:
        """See `Target.delete_many`."""
        self._try(lambda: self._target.delete_many(names))

    def _try(self, action: Callable[[], _Result]) -> _Result:
        begun = self._clock()
        waited = 0.0
        for attempt in count(1):
            try:
                result = action()
            except TargetUnreachableError:
                spent = max(waited, self._clock() - begun)
                pause = self._pause(attempt, spent)
                if self._stop.is_set() or pause is None:
                    self._answered = False
                    raise
            except TargetError:
                self._answered = True
                raise
            else:
                self._answered = True
                return result
            waited += pause
            self._sleep(pause)
            if self._stop.is_set():
                break
        raise StoppedError(f"stopped while target {self.name!r} did not answer")

    def _pause(self, attempt: int, spent: float) -> float | None:
        """How long to wait after so many tries and seconds; None where that was enough."""
        patience = self._patience
        ceiling = patience.first_seconds * 2.0 ** (attempt - 1)
        pause = self._jitter() * min(ceiling, patience.longest_seconds)
        if not self._answered:
            few = attempt < min(patience.attempts, patience.first_attempts)
            return pause if few and spent + pause <= patience.first_budget_seconds else None
        few = attempt < patience.attempts
        # One that was long on its way when it failed is worth another try.
        in_time = attempt == 1 or spent + pause <= patience.budget_seconds
        return pause if few and in_time else None

    def _holds(self, name: str, parts: Sequence[Buffer]) -> bool:
        found = self._target.stat(name)
        size = total_size(parts)
        if found is None or found.size_bytes != size:
            return False
        return self._target.get(name, size) == b"".join(parts)
