"""A wrapper that makes chosen operations fail, for tests of what must survive that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from backupd.errors import TargetError, TargetUnreachableError
from backupd.targets.base import Buffer, ObjectInfo, Target
from backupd.targets.wrapping import WrappedTarget


def unreachable(times: int) -> Callable[[str, str], TargetError | None]:
    """A plan under which the first `times` operations find nobody there."""
    left = times

    def plan(verb: str, name: str) -> TargetError | None:
        nonlocal left
        if not left:
            return None
        left -= 1
        return TargetUnreachableError(f"{verb} {name}: nobody there")

    return plan


_Result = TypeVar("_Result")


class FaultyTarget(WrappedTarget):
    """`target`, each of whose operations first asks `plan(verb, name)` for an error to raise.

    With `after` the operation takes effect before it fails, as when only the answer was lost.
    """

    def __init__(
        self,
        target: Target,
        plan: Callable[[str, str], TargetError | None],
        *,
        after: bool = False,
    ) -> None:
        super().__init__(target)
        self._plan = plan
        self._after = after
        self.calls: list[tuple[str, str]] = []

    def put(self, name: str, parts: Sequence[Buffer], *, warm: bool = False) -> None:
        self._meet("put", name, lambda: self._target.put(name, parts, warm=warm))

    def put_if_absent(self, name: str, parts: Sequence[Buffer]) -> bool:
        return self._meet("put_if_absent", name, lambda: self._target.put_if_absent(name, parts))

    def get(self, name: str, max_bytes: int) -> bytes:
        return self._meet("get", name, lambda: self._target.get(name, max_bytes))

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        self._meet("read_into", name, lambda: self._target.read_into(name, offset, buffer))

    def stat(self, name: str) -> ObjectInfo | None:
        return self._meet("stat", name, lambda: self._target.stat(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for info in self._target.list(prefix):
            self._meet("list", info.name, lambda: None)
            yield info

    def delete(self, name: str) -> None:
        self._meet("delete", name, lambda: self._target.delete(name))

    def _meet(self, verb: str, name: str, action: Callable[[], _Result]) -> _Result:
        self.calls.append((verb, name))
        error = self._plan(verb, name)
        if error is not None:
            if self._after:
                action()
            raise error
        return action()
