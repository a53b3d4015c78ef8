"""Small objects are read several at once, or from near at hand, and are what the target holds."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.errors import ObjectMissingError, TargetUnreachableError
from backupd.operations.object_cache import StateObjectCache
from backupd.repository import small_objects
from backupd.repository.small_objects import SmallObjects, present
from backupd.targets.base import ObjectInfo
from backupd.targets.memory import MemoryTarget

COUNT = 60
MOST = 1 << 20


class SlowTarget(MemoryTarget):
    """Each `get` takes a moment; counts them, and how many are under way at a time."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.read: list[str] = []
        self.most = 0
        self.absent: dict[str, Exception] = {}
        self._seconds = seconds
        self._now = 0
        self._own = threading.Lock()

    def get(self, name: str, max_bytes: int) -> bytes:
        with self._own:
            self.read.append(name)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            # The first take longest, so that answers come in another order.
            time.sleep(self._seconds * (COUNT - int(name[-3:])) / COUNT)
            if name in self.absent:
                raise self.absent[name]
            return super().get(name, max_bytes)
        finally:
            with self._own:
                self._now -= 1


@pytest.fixture
def slow() -> SlowTarget:
    target = SlowTarget(0.02)
    for number in range(COUNT):
        target.put(f"snapshots/m/{number:03}", [b"%d" % number * 50])
    return target


def listed(target: MemoryTarget) -> list[ObjectInfo]:
    return list(target.list("snapshots/"))


def gets(small: SmallObjects, infos: list[ObjectInfo], **options: bool) -> list[bytes]:
    return [present(found) for found in small.get_all("snapshots/", infos, MOST, **options)]


def contents() -> list[bytes]:
    return [b"%d" % number * 50 for number in range(COUNT)]


@pytest.mark.parametrize("at_once", [1, 2, 16, 100])
def test_they_come_in_order_and_so_many_at_once(slow: SlowTarget, at_once: int) -> None:
    assert gets(SmallObjects(slow, at_once=at_once), listed(slow)) == contents()
    assert slow.most <= at_once
    assert slow.most > 1 or at_once == 1
    assert len(slow.read) == COUNT


def test_of_large_ones_few_are_on_their_way(
    slow: SlowTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_objects, "_AHEAD_BYTES", 350)  # of 50 to 100 bytes each
    assert gets(SmallObjects(slow, at_once=16), listed(slow)) == contents()
    assert 1 < slow.most <= 7
    monkeypatch.setattr(small_objects, "_AHEAD_BYTES", 10)
    slow.most = 0
    assert gets(SmallObjects(slow, at_once=16), listed(slow)) == contents()
    assert slow.most == 1


@pytest.mark.parametrize("at_once", [1, 8])
def test_an_absent_one_hides_no_other_and_other_failures_are_raised(
    slow: SlowTarget, at_once: int
) -> None:
    infos = listed(slow)
    slow.delete(infos[3].name)
    found = list(SmallObjects(slow, at_once=at_once).get_all("snapshots/", infos, MOST))
    assert isinstance(found[3], ObjectMissingError)
    assert [one for one in found if isinstance(one, bytes)] == contents()[:3] + contents()[4:]
    with pytest.raises(ObjectMissingError):
        present(found[3])
    slow.absent[infos[5].name] = TargetUnreachableError("gone")
    some = SmallObjects(slow, at_once=at_once).get_all("snapshots/", infos, MOST)
    with pytest.raises(TargetUnreachableError, match="gone"):
        list(some)


def test_who_stops_half_way_leaves_no_thread_behind(slow: SlowTarget) -> None:
    some: Iterator[object] = SmallObjects(slow, at_once=8).get_all("snapshots/", listed(slow), MOST)
    next(some)
    some.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("get_")]
    assert len(slow.read) < COUNT


def test_what_is_near_at_hand_is_not_asked_for(slow: SlowTarget, tmp_path: Path) -> None:
    infos = listed(slow)
    small = SmallObjects(slow, StateObjectCache(tmp_path / "cache"), at_once=8)
    for asked in (COUNT, 0):
        slow.read.clear()
        assert gets(small, infos) == contents()
        assert len(slow.read) == asked
    # By another process, for a single one, and where all are to be seen for themselves.
    other = SmallObjects(slow, StateObjectCache(tmp_path / "cache"))
    slow.read.clear()
    assert [present(other.get(infos[7], MOST))] == contents()[7:8]
    assert not slow.read
    assert gets(other, infos, afresh=True) == contents()
    assert len(slow.read) == COUNT


def test_an_object_that_is_not_as_it_was_listed_is_asked_for(
    slow: SlowTarget, tmp_path: Path
) -> None:
    small = SmallObjects(slow, StateObjectCache(tmp_path), at_once=4)
    gets(small, listed(slow))
    time.sleep(0.01)
    name = "snapshots/m/004"
    slow.put(name, [b"7" * 50])  # as long as it was, and later
    slow.read.clear()
    assert gets(small, listed(slow))[4] == b"7" * 50
    assert slow.read == [name]
    slow.put("snapshots/m/005", [b"longer" * 50])
    assert gets(small, listed(slow))[5] == b"longer" * 50


def test_a_file_that_is_not_as_it_was_kept_is_not_believed(tmp_path: Path) -> None:
    cache = StateObjectCache(tmp_path)
    drawn = random.Random(3)
    data = drawn.randbytes(300)
    info = ObjectInfo("index/abc+1", 300, 1.5)
    cache.keep(info, data)
    assert cache.load(info) == data
    for other in (
        ObjectInfo("index/abc", 300, 1.5),
        ObjectInfo("index/abc+1", 299, 1.5),
        ObjectInfo("index/abc+1", 300, 1.25),
    ):
        assert cache.load(other) is None
    file = tmp_path / info.name
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert cache.load(info) is None
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        assert cache.load(info) is None
    file.write_bytes(whole + b"x")
    assert cache.load(info) is None
    # A file under another's name is of no use to it.
    other = ObjectInfo("index/def", 300, 1.5)
    (tmp_path / other.name).write_bytes(whole)
    assert cache.load(other) is None
    file.write_bytes(whole)
    assert cache.load(info) == data


def test_what_is_not_wanted_any_more_goes(tmp_path: Path) -> None:
    cache = StateObjectCache(tmp_path)
    infos = [ObjectInfo(f"{kind}/{n}", 1, 0.0) for kind in ("index", "snapshots/m") for n in "abc"]
    for info in infos:
        cache.keep(info, b"x")
    cache.keep_only("index/", ["index/b"])
    assert [info.name for info in infos if cache.load(info)] == [
        "index/b",
        "snapshots/m/a",
        "snapshots/m/b",
        "snapshots/m/c",
    ]
    cache.keep_only("snapshots/", [])
    assert [info.name for info in infos if cache.load(info)] == ["index/b"]
    cache.keep_only("tombstones/", [])


def test_a_large_one_or_one_of_another_size_is_not_kept(tmp_path: Path) -> None:
    cache = StateObjectCache(tmp_path)
    large = ObjectInfo("index/a", (4 << 20) + 1, 0.0)
    cache.keep(large, bytes(large.size_bytes))
    assert cache.load(large) is None
    torn = ObjectInfo("index/b", 10, 0.0)
    cache.keep(torn, b"123")
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    slow: SlowTarget, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    small = SmallObjects(slow, StateObjectCache(tmp_path / "file" / "cache"), at_once=4)
    assert gets(small, listed(slow)) == contents()
    assert gets(small, []) == []
    os.chmod(tmp_path / "file", 0)
    assert gets(small, listed(slow)) == contents()
