"""Creating an object for one of many writers, on a store that cannot say that it is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import pytest

from backupd.errors import StoppedError, TargetError, TargetFullError, TargetUnreachableError
from backupd.targets.base import Buffer
from backupd.targets.claims import Claims
from backupd.targets.memory import MemoryTarget
from backupd.targets.retry import RetryTarget
from tests.targets.faulty import FaultyTarget, unreachable

NAME = "snapshots/m/1"


class Plain(FaultyTarget):
    """A store without conditions: `put_if_absent` goes by claims over its other operations."""

    def __init__(self, target: MemoryTarget, **options: object) -> None:
        super().__init__(target, self._fails)
        self.plan = unreachable(0)
        self.slept = 0.0
        self.claims = claims_of(self, sleep=self.sleep, **options)

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    def put_if_absent(self, name: str, parts: Sequence[Buffer]) -> bool:
        return self.claims.put_if_absent(name, parts, store=lambda: self.put(name, parts) is None)

    def _fails(self, verb: str, name: str) -> TargetError | None:
        return self.plan(verb, name)


def claims_of(target: object, **options: object) -> Claims:
    given = {"jitter": lambda: 1.0, "sleep": lambda _: None, "clock": float, **options}
    return Claims(target, **given)  # type: ignore[arg-type]


def failing_to_store(error: TargetError) -> Callable[[str, str], TargetError | None]:
    """A plan under which the object itself cannot be put; claims can."""
    return lambda verb, name: error if (verb, name) == ("put", NAME) else None


def names(target: MemoryTarget) -> list[str]:
    return [info.name for info in target.list("")]


def test_a_dead_writers_claim_is_given_up_after_ten_minutes() -> None:
    now = 1e9
    memory = MemoryTarget(clock=lambda: now)

    class KilledError(BaseException):
        pass

    class DyingTarget(MemoryTarget):
        def delete(self, name: str) -> None:
            raise KilledError

        def list(self, prefix: str) -> object:  # type: ignore[override]
            raise KilledError

    dying = DyingTarget(clock=lambda: now)
    dying._objects = memory._objects
    with pytest.raises(KilledError):
        claims_of(dying, token=lambda: "aaa").put_if_absent(NAME, [b"x"], store=lambda: True)
    assert len(list(memory.list("claims/"))) == 1
    with pytest.raises(TargetError, match="claimed by a writer"):
        Plain(memory).put_if_absent(NAME, [b"mine"])
    now += 601
    assert Plain(memory).put_if_absent(NAME, [b"mine"])
    assert names(memory) == [NAME]


@pytest.mark.parametrize("after", [False, True], ids=["not done", "answer lost"])
@pytest.mark.parametrize("tokens", [1, -1], ids=["rising", "falling"])
def test_a_store_that_fails_at_any_moment_never_holds_its_own_writer_up(
    after: bool, tokens: int
) -> None:
    """Each request of a creation fails in turn, and those after it for a while."""
    moments = 0
    for first in count():
        for outage in (1, 2, 3):
            memory = MemoryTarget()
            numbers = count(500, tokens)
            plain = Plain(memory, token=lambda numbers=numbers: f"{next(numbers):03}")
            plain._after = after
            requests = count()

            def plan(
                verb: str,
                name: str,
                requests: Iterator[int] = requests,
                first: int = first,
                outage: int = outage,
            ) -> TargetError | None:
                failed = first <= next(requests) < first + outage
                return TargetUnreachableError(f"{verb} {name}") if failed else None

            plain.plan = plan
            target = RetryTarget(plain, sleep=lambda _: None, jitter=lambda: 1.0)
            assert target.put_if_absent(NAME, [b"mine", b"all of it"])
            assert memory.get(NAME, 99) == b"mineall of it"
            assert names(memory) == [NAME], (first, outage)
            assert plain.slept == 0, (first, outage)
            moments += 1
        if next(requests) <= first:  # it had ended before anything failed
            break
    assert moments > 20


def test_what_an_unanswered_put_may_yet_store_keeps_other_writers_out() -> None:
    memory = MemoryTarget()
    one, other = Plain(memory), Plain(memory)
    one.plan = failing_to_store(TargetUnreachableError("no answer"))
    with pytest.raises(TargetUnreachableError):
        one.put_if_absent(NAME, [b"one"])
    with pytest.raises(TargetError, match="claimed by a writer"):
        other.put_if_absent(NAME, [b"other"])
    # Nor is it let in by another thread of the same process that has other bytes to store.
    one.plan = unreachable(0)
    with pytest.raises(TargetError, match="claimed by a writer"):
        one.put_if_absent(NAME, [b"other"])
    memory.put(NAME, [b"one"])  # it arrives
    assert not other.put_if_absent(NAME, [b"other"])
    assert not one.put_if_absent(NAME, [b"one"])
    assert memory.get(NAME, 99) == b"one"
    assert names(memory) == [NAME]


def test_stop_ends_the_waiting_for_another_writer() -> None:
    memory = MemoryTarget()
    one = Plain(memory)
    one.plan = failing_to_store(TargetUnreachableError("no answer"))
    with pytest.raises(TargetUnreachableError):
        one.put_if_absent(NAME, [b"one"])
    standing = names(memory)
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    claims = Claims(memory, stop=stop, jitter=lambda: 1.0)
    begun = time.monotonic()
    with pytest.raises(StoppedError):
        claims.put_if_absent(NAME, [b"other"], lambda: True)
    assert time.monotonic() - begun < 10
    assert names(memory) == standing, "its own claim is withdrawn"


def test_a_store_that_is_full_leaves_no_claim() -> None:
    memory = MemoryTarget()
    plain = Plain(memory)
    plain.plan = failing_to_store(TargetFullError("full"))
    with pytest.raises(TargetFullError):
        plain.put_if_absent(NAME, [b"mine"])
    assert not names(memory)


def test_a_writer_that_was_held_up_begins_anew_with_another_claim() -> None:
    memory = MemoryTarget()
    tokens = iter(("aaa", "bbb"))
    # Begun, held up, done with that round, begun anew, and in time.
    times = iter((0.0, 500.0, 500.0, 1000.0, 1001.0))
    waits: list[float] = []
    puts: list[str] = []

    def store() -> bool:
        puts.extend(info.name.rpartition("/")[2] for info in memory.list("claims/"))
        memory.put(NAME, [b"mine"])
        return True

    claims = claims_of(
        memory, token=lambda: next(tokens), sleep=waits.append, clock=lambda: next(times)
    )
    assert claims.put_if_absent(NAME, [b"mine"], store)
    assert puts == ["bbb"]
    assert waits == [20.0], "the slower the store, the longer the wait, and not for ever"


def test_who_finds_anothers_bytes_under_the_name_did_not_create_it() -> None:
    memory = MemoryTarget()

    def store() -> bool:
        memory.put(NAME, [b"mine"])
        memory.put(NAME, [b"late"])  # by one whose request was long on its way
        return True

    assert not claims_of(memory).put_if_absent(NAME, [b"mine"], store)
