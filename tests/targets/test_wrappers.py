"""What the wrappers add: trying again, a limit on what goes out, and counting."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from backupd.config.settings import NasTarget
from backupd.errors import (
    ObjectMissingError,
    StoppedError,
    TargetError,
    TargetFullError,
    TargetUnreachableError,
)
from backupd.targets.bandwidth import LimitedTarget, Limits, TokenBucket
from backupd.targets.counting import CountingTarget, Traffic
from backupd.targets.memory import MemoryTarget
from backupd.targets.open import open_target
from backupd.targets.retry import Patience, RetryTarget
from tests.targets.faulty import FaultyTarget, unreachable


def retrying(faulty: FaultyTarget, waits: list[float], **options: object) -> RetryTarget:
    return RetryTarget(faulty, sleep=waits.append, jitter=lambda: 1.0, **options)  # type: ignore[arg-type]


def test_what_does_not_answer_is_tried_again_after_growing_waits() -> None:
    waits: list[float] = []
    memory = MemoryTarget()
    memory.put("index/a", [b"bytes"])
    for operation in (
        lambda target: target.put("index/b", [b"x"]),
        lambda target: target.get("index/a", 5),
        lambda target: target.read_into("index/a", 0, memoryview(bytearray(5))),
        lambda target: target.stat("index/a"),
        lambda target: list(target.list("index/")),
        lambda target: target.delete("index/b"),
    ):
        waits.clear()
        operation(retrying(FaultyTarget(memory, unreachable(3)), waits))
        assert waits == [0.5, 1.0, 2.0]


def test_waits_are_spread_and_never_above_the_longest() -> None:
    waits: list[float] = []
    target = RetryTarget(
        FaultyTarget(MemoryTarget(), unreachable(5)),
        patience=Patience(
            first_attempts=6, first_seconds=4, longest_seconds=10, first_budget_seconds=60
        ),
        sleep=waits.append,
        jitter=iter([0.5, 0.25, 1.0, 0.0, 1.0]).__next__,
    )
    target.put("a", [b""])
    assert waits == [2.0, 2.0, 10.0, 0.0, 10.0]


def test_it_ends_after_the_last_attempt_or_when_the_budget_is_spent() -> None:
    for patience, tries in (
        (Patience(attempts=3), 3),
        (Patience(first_attempts=9, first_budget_seconds=4), 4),
    ):
        waits: list[float] = []
        faulty = FaultyTarget(MemoryTarget(), unreachable(100))
        with pytest.raises(TargetUnreachableError, match="nobody there"):
            retrying(faulty, waits, patience=patience).put("a", [b""])
        assert len(faulty.calls) == tries
        assert sum(waits) <= patience.budget_seconds


def test_one_that_never_answered_is_given_up_on_sooner_than_one_that_did() -> None:
    silent = False
    waits: list[float] = []
    faulty = FaultyTarget(
        MemoryTarget(), lambda verb, name: TargetUnreachableError("nobody") if silent else None
    )
    for answered_before in (True, False):
        silent = False
        target = retrying(faulty, waits)
        if answered_before:
            target.put("a", [b""])
        silent = True
        faulty.calls.clear()
        waits.clear()
        with pytest.raises(TargetUnreachableError):
            target.stat("a")
        assert len(faulty.calls) == (8 if answered_before else 4)
        # Half a minute is what a server may take to start again; a minute would be too much.
        assert (30 < sum(waits) <= 60) if answered_before else (sum(waits) < 5)


def test_one_that_hangs_is_given_up_on_and_then_not_waited_for_as_long() -> None:
    now = 0.0
    silent = False

    def plan(verb: str, name: str) -> TargetUnreachableError | None:
        nonlocal now
        if not silent:
            return None
        now += 60.0  # a timeout
        return TargetUnreachableError("it hangs")

    faulty = FaultyTarget(MemoryTarget(), plan)
    target = RetryTarget(faulty, sleep=lambda _: None, jitter=lambda: 1.0, clock=lambda: now)
    target.put("a", [b""])
    silent = True
    for tries in (2, 1, 1):
        faulty.calls.clear()
        with pytest.raises(TargetUnreachableError):
            target.stat("a")
        assert len(faulty.calls) == tries
    silent = False
    assert target.stat("a") is not None


@pytest.mark.parametrize("kind", [TargetFullError, TargetError, ObjectMissingError])
def test_what_trying_again_does_not_mend_is_said_at_once(kind: type[TargetError]) -> None:
    waits: list[float] = []
    faulty = FaultyTarget(MemoryTarget(), lambda verb, name: kind("no"))
    with pytest.raises(kind):
        retrying(faulty, waits).get("a", 1)
    assert len(faulty.calls) == 1
    assert not waits


def test_an_object_created_by_a_try_whose_answer_was_lost_is_this_calls_own() -> None:
    memory = MemoryTarget()
    lost = FaultyTarget(memory, unreachable(1), after=True)
    assert retrying(lost, []).put_if_absent("snapshots/m/1", [b"mi", b"ne"])
    other = FaultyTarget(memory, unreachable(1))
    assert not retrying(other, []).put_if_absent("snapshots/m/1", [b"them"])
    assert not retrying(FaultyTarget(memory, unreachable(0)), []).put_if_absent(
        "snapshots/m/1", [b"mine"]
    )
    assert memory.get("snapshots/m/1", 9) == b"mine"


def test_a_listing_that_breaks_goes_on_where_it_was() -> None:
    memory = MemoryTarget()
    for number in range(50):
        memory.put(f"packs/{number:02}", [b""])
    broken = {"packs/10", "packs/11", "packs/40"}

    def plan(verb: str, name: str) -> TargetError | None:
        if name in broken:
            broken.remove(name)
            return TargetUnreachableError("cut off")
        return None

    listed = [info.name for info in retrying(FaultyTarget(memory, plan), []).list("packs/")]
    assert listed == [f"packs/{number:02}" for number in range(50)]
    assert not broken


def test_stop_ends_the_waiting() -> None:
    stop = threading.Event()
    target = RetryTarget(
        FaultyTarget(MemoryTarget(), unreachable(100)),
        patience=Patience(first_seconds=60, longest_seconds=60, first_budget_seconds=600),
        stop=stop,
        jitter=lambda: 1.0,
    )
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(StoppedError):
        target.put("a", [b""])
    with pytest.raises(TargetUnreachableError):
        target.put("a", [b""])


class Clock:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_uploads_keep_to_the_limit_and_reads_do_not_wait() -> None:
    clock = Clock()
    bucket = TokenBucket(1000, clock=lambda: clock.now, sleep=clock.sleep)
    one = LimitedTarget(MemoryTarget(), bucket)
    other = LimitedTarget(MemoryTarget(), bucket)
    for number in range(20):
        one.put(f"a/{number}", [b"x" * 250, b"x" * 250])
        assert other.put_if_absent(f"a/{number}", [b"x" * 500])
    # 20,000 bytes at 1000 a second, the first second's worth saved up and the last one unpaid.
    assert 18.0 <= clock.now - 100.0 <= 20.0
    before = clock.now
    one.get("a/1", 500)
    one.read_into("a/1", 0, memoryview(bytearray(500)))
    assert clock.now == before


def test_what_names_the_packs_that_have_gone_out_does_not_wait_and_counts() -> None:
    clock = Clock()
    target = LimitedTarget(
        MemoryTarget(), TokenBucket(1000, clock=lambda: clock.now, sleep=clock.sleep)
    )
    target.put("packs/00/a", [b"x" * 60_000])
    before = clock.now
    target.put("index/a", [b"x" * 10_000])
    assert target.put_if_absent("snapshots/m/1", [b"x"])
    assert clock.now == before
    target.put("packs/00/b", [b"x"])
    assert clock.now - before >= 68.0


def test_rate_that_went_unused_is_kept_for_a_second_only() -> None:
    clock = Clock()
    bucket = TokenBucket(1000, clock=lambda: clock.now, sleep=clock.sleep)
    clock.now += 3600
    start = clock.now
    for _ in range(5):
        bucket.take(1000)
    assert clock.now - start == pytest.approx(3.0)


def test_requests_and_bytes_are_counted_by_kind() -> None:
    traffic = Traffic()
    target = CountingTarget(MemoryTarget(), traffic)
    target.put("a", [b"123", b"45"])
    assert target.put_if_absent("b", [b"6"])
    assert not target.put_if_absent("b", [b"6"])
    target.get("a", 10)
    target.read_into("a", 1, memoryview(bytearray(2)))
    with pytest.raises(ObjectMissingError):
        target.get("none", 10)
    target.stat("a")
    list(target.list(""))
    target.delete("a")
    counts = traffic.counts()
    assert counts.requests == {"put": 3, "get": 3, "stat": 1, "list": 1, "delete": 1}
    assert (counts.bytes_written, counts.bytes_read) == (7, 7)


def test_a_limit_is_one_for_all_who_share_its_name_and_follows_its_rate() -> None:
    limits = Limits()
    nas = limits.of("nas", 1000)
    assert limits.of("nas", 1000) is nas
    assert limits.of("s3", 1000) is not nas
    assert limits.of("nas", 2000) is not nas
    assert limits.of("", 0) is None


def test_a_target_keeps_to_its_own_limit_and_to_that_of_all(tmp_path: Path) -> None:
    settings = NasTarget("nas", tmp_path, require_mount=False)
    clock = Clock()
    rates = (1000.0, 1e9)
    for first, second in (rates, rates[::-1]):
        pair = [
            TokenBucket(rate, clock=lambda: clock.now, sleep=clock.sleep)
            for rate in (first, second)
        ]
        target = open_target(settings, upload=pair[0], own_upload=pair[1])
        before = clock.now
        for number in range(3):
            target.put(f"packs/{number}", [bytes(2000)])
        assert clock.now - before >= 2.0
