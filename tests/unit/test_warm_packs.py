"""What is read around a blob of a far target is what lies there, and no more is held than said."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from backupd.errors import TargetUnreachableError
from backupd.repository import warm_packs
from backupd.repository.layout import MIB, pack_name
from backupd.repository.warm_packs import HELD_MOST, WarmPacks
from backupd.targets.memory import MemoryTarget
from tests.targets.faulty import FaultyTarget

SIZES = (1, 500, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 5 * MIB + 77)


class Reads(FaultyTarget):
    """Counts what is read, and fails on demand."""

    def __init__(self, memory: MemoryTarget) -> None:
        super().__init__(memory, lambda verb, name: self.failure)
        self.failure: TargetUnreachableError | None = None


@pytest.fixture(scope="module")
def packs() -> dict[bytes, bytes]:
    drawn = random.Random(5)
    return {bytes([number]) * 32: drawn.randbytes(size) for number, size in enumerate(SIZES)}


def opened(packs: dict[bytes, bytes]) -> tuple[WarmPacks, Reads]:
    memory = MemoryTarget()
    for pack_id, data in packs.items():
        memory.put(pack_name(pack_id), [data])
    target = Reads(memory)
    return WarmPacks(target, lambda pack_id: len(packs[pack_id])), target


def test_any_part_of_any_pack_is_what_lies_there(packs: dict[bytes, bytes]) -> None:
    warm, target = opened(packs)
    drawn = random.Random(6)

    def read(_: int) -> None:
        pack_id, data = drawn.choice(list(packs.items()))
        begin = drawn.randrange(len(data))
        size = drawn.randint(1, min(len(data) - begin, 3 * MIB))
        view = memoryview(bytearray(size))
        assert warm.read_into(pack_id, begin, view)
        assert view == data[begin : begin + size]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(300)))
    # Nothing had to make way, so no window was read twice.
    assert len(target.calls) <= sum(-(-size // (2 * MIB)) for size in SIZES)


def test_what_lies_behind_the_end_is_left_to_who_asks(packs: dict[bytes, bytes]) -> None:
    warm, target = opened(packs)
    pack_id = bytes([1]) * 32
    assert not warm.read_into(pack_id, 499, memoryview(bytearray(2)))
    assert not warm.read_into(pack_id, 2 * MIB, memoryview(bytearray(2)))
    gone = bytes([3]) * 32
    target.delete(pack_name(gone))
    assert not warm.read_into(gone, 0, memoryview(bytearray(2)))


def test_one_that_is_away_is_told_and_asked_again(packs: dict[bytes, bytes]) -> None:
    warm, target = opened(packs)
    pack_id = bytes([1]) * 32
    target.failure = TargetUnreachableError("away")
    view = memoryview(bytearray(9))
    for _ in range(2):
        with pytest.raises(TargetUnreachableError):
            warm.read_into(pack_id, 3, view)
    target.failure = None
    assert warm.read_into(pack_id, 3, view)
    assert view == packs[pack_id][3:12]


def test_what_is_let_go_of_is_read_anew(packs: dict[bytes, bytes]) -> None:
    warm, target = opened(packs)
    pack_id = bytes([1]) * 32
    view = memoryview(bytearray(5))
    assert warm.read_into(pack_id, 0, view)
    target.put(pack_name(pack_id), [bytes(500)])
    assert warm.read_into(pack_id, 0, view)
    assert view == packs[pack_id][:5]
    assert warm.drop(pack_id)
    assert not warm.drop(pack_id)
    assert warm.read_into(pack_id, 0, view)
    assert view == bytes(5)


def test_no_more_is_held_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_packs, "HELD_MOST", 5 * MIB)
    many = {bytes([number]) * 32: bytes([number]) * MIB for number in range(20)}
    warm, target = opened(many)
    view = memoryview(bytearray(3))
    for round_ in range(2):
        for number, pack_id in enumerate(many):
            assert warm.read_into(pack_id, 7, view)
            assert view == bytes([number]) * 3
            held = sum(len(window.data) for window in warm._windows.values())
            assert held == warm._held_bytes <= 5 * MIB
        assert len(target.calls) == 20 * (round_ + 1)
    assert warm.read_into(bytes([19]) * 32, 0, view)
    assert len(target.calls) == 40
    assert HELD_MOST == 32 * MIB
