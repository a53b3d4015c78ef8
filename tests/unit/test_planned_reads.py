"""A far target is asked once for each run of a pack, whatever order blobs are opened in."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from backupd.errors import TargetUnreachableError
from backupd.repository import planned_reads
from backupd.repository.index import Location
from backupd.repository.layout import pack_name
from backupd.repository.planned_reads import PlannedReads
from backupd.repository.records import BlobRecord
from backupd.targets.memory import MemoryTarget

KIB = 1024
PACKS = tuple(bytes([number]) * 32 for number in range(3))
SIZE = 100 * KIB
BLOBS = 40


class Counted(MemoryTarget):
    """Counts reads; fails those of `failing`."""

    reads = 0
    failing: Exception | None = None

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        self.reads += 1
        if self.failing is not None:
            raise self.failing
        super().read_into(name, offset, buffer)


@pytest.fixture
def target() -> Counted:
    made = Counted()
    for pack_id in PACKS:
        made.put(pack_name(pack_id), [os.urandom(SIZE * BLOBS)])
    return made


def locations() -> list[Location]:
    return [
        Location(pack_id, BlobRecord(os.urandom(32), number * SIZE, SIZE, SIZE, 0, 0))
        for pack_id in PACKS
        for number in range(BLOBS)
    ]


def bytes_of(target: MemoryTarget, place: Location) -> bytes:
    offset = place.record.offset
    return target.get(pack_name(place.pack_id), SIZE * BLOBS)[offset : offset + SIZE]


def test_every_blob_is_its_own_in_any_order_by_any_threads_and_each_run_is_read_once(
    target: Counted,
) -> None:
    wanted = locations()
    plan = PlannedReads(target, wanted)
    random.Random(1).shuffle(wanted)

    def read(place: Location) -> bool:
        return plan.read(place.pack_id, place.record.offset, SIZE) == bytes_of(target, place)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(read, wanted))
    # 4,000 KiB of each pack, in runs of 4 MiB.
    assert target.reads == len(PACKS)
    assert plan._held_bytes == 0


def test_what_must_make_way_is_read_by_itself_and_memory_is_bounded(
    target: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planned_reads, "RUN_MOST", 4 * SIZE)
    monkeypatch.setattr(planned_reads, "HELD_MOST", 10 * SIZE)
    wanted = locations()
    plan = PlannedReads(target, wanted)
    random.Random(2).shuffle(wanted)
    alone = 0
    given = []
    for place in wanted:
        view = plan.read(place.pack_id, place.record.offset, SIZE)
        if view is None:
            alone += 1
        else:
            given.append((view, place))
        assert plan._held_bytes <= 10 * SIZE
    assert 0 < alone < len(wanted)
    # Also what was let go of meanwhile.
    assert all(view == bytes_of(target, place) for view, place in given)


def test_what_was_not_planned_or_cannot_be_read_is_left_to_a_read_of_its_own(
    target: Counted,
) -> None:
    wanted = locations()
    plan = PlannedReads(target, wanted[:3])
    assert plan.read(PACKS[1], 0, SIZE) is None
    assert plan.read(PACKS[0], 3 * SIZE, SIZE) is None
    assert plan.read(PACKS[0], 2 * SIZE + 1, SIZE) is None
    target.delete(pack_name(PACKS[0]))
    assert plan.read(PACKS[0], 0, SIZE) is None
    assert target.reads == 1


def test_a_target_that_does_not_answer_is_said(target: Counted) -> None:
    plan = PlannedReads(target, locations())
    target.failing = TargetUnreachableError("nobody there")
    with pytest.raises(TargetUnreachableError):
        plan.read(PACKS[0], 0, SIZE)
    target.failing = None
    assert plan.read(PACKS[0], 0, SIZE) is not None
