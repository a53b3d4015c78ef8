"""Actors that work on one store in threads, of which a test says who does the next operation.

Nothing happens to the store unless the test lets an actor take its next step, so that any order
of operations can be had, and had again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from backupd.targets.base import Buffer, ObjectInfo, Target
from backupd.targets.wrapping import WrappedTarget

_PATIENCE_SECONDS = 100.0


class AbortedError(Exception):
    """The test is over; the actor goes home."""


class Actor:
    """One who does `work(target)`; `step` lets it do one operation on the store."""

    def __init__(self, name: str, store: Target, work: Callable[[Target], None]) -> None:
        self.name = name
        self.done = False
        self.failure: BaseException | None = None
        self._condition = threading.Condition()
        self._at_gate: list[object] = []
        self._granted: set[object] = set()
        self._running = 0
        self._aborted = False
        self.last: tuple[str, str] = ("", "")
        self._thread = threading.Thread(target=self._run, args=(work, store), daemon=True)
        self._thread.start()
        self._settle()

    def _run(self, work: Callable[[Target], None], store: Target) -> None:
        try:
            work(_Gated(store, self))
        except AbortedError:
            pass
        except BaseException as error:
            self.failure = error
        with self._condition:
            self.done = True
            self._condition.notify_all()

    def pass_gate(self, verb: str, name: str) -> None:
        """Called before each operation, by whichever thread of the actor does it."""
        ticket = object()
        with self._condition:
            self._at_gate.append(ticket)
            self._condition.notify_all()
            while ticket not in self._granted and not self._aborted:
                self._condition.wait()
            if self._aborted:
                raise AbortedError
            self._granted.discard(ticket)
            self.last = (verb, name)
            self._running += 1

    def passed(self) -> None:
        """Called after each operation."""
        with self._condition:
            self._running -= 1
            self._condition.notify_all()

    def step(self) -> None:
        """Let the first thread that waits do its operation, and wait for what comes next."""
        with self._condition:
            if not self._at_gate:
                return
            self._granted.add(self._at_gate.pop(0))
            self._running += 0
            self._condition.notify_all()
        self._settle()

    def _settle(self) -> None:
        with self._condition:
            ready = self._condition.wait_for(
                lambda: (
                    not self._granted and not self._running and (self.done or bool(self._at_gate))
                ),
                timeout=_PATIENCE_SECONDS,
            )
        assert ready, f"{self.name} hangs after {self.last}"

    def abort(self) -> None:
        """End the actor wherever it is."""
        with self._condition:
            self._aborted = True
            self._condition.notify_all()
        self._thread.join(_PATIENCE_SECONDS)


class _Gated(WrappedTarget):
    def __init__(self, target: Target, actor: Actor) -> None:
        super().__init__(target)
        self._actor = actor

    def _do(self, verb: str, name: str, action: Callable[[], object]) -> object:
        self._actor.pass_gate(verb, name)
        try:
            return action()
        finally:
            self._actor.passed()

    def put(self, name: str, parts: Sequence[Buffer], *, warm: bool = False) -> None:
        self._do("put", name, lambda: self._target.put(name, parts, warm=warm))

    def put_if_absent(self, name: str, parts: Sequence[Buffer]) -> bool:
        return bool(
            self._do("put_if_absent", name, lambda: self._target.put_if_absent(name, parts))
        )

    def get(self, name: str, max_bytes: int) -> bytes:
        found = self._do("get", name, lambda: self._target.get(name, max_bytes))
        assert isinstance(found, bytes)
        return found

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        self._do("read_into", name, lambda: self._target.read_into(name, offset, buffer))

    def stat(self, name: str) -> ObjectInfo | None:
        found = self._do("stat", name, lambda: self._target.stat(name))
        assert found is None or isinstance(found, ObjectInfo)
        return found

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        found = self._do("list", prefix, lambda: list(self._target.list(prefix)))
        assert isinstance(found, list)
        return iter(found)

    def delete(self, name: str) -> None:
        self._do("delete", name, lambda: self._target.delete(name))
