"""Copies of a blob of which one is damaged: another is read, and check says what counts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from backupd.operations.check import check
from backupd.operations.forget import forget_snapshots
from backupd.operations.prune import prune
from backupd.operations.replicate import replicate
from backupd.repository.index import Index
from backupd.repository.layout import pack_name
from tests.support.world import MODEL, World, change_model, make_world
from tests.support.world import small_packs as small_packs


@pytest.fixture
def world(tmp_path: Path, small_packs: None) -> World:
    """Two versions of which a prune has copied much to new packs; the old ones are marked."""
    world = make_world(tmp_path, size=1 << 17, copies=1, keys_seed=11)
    rng = random.Random(11)
    for _ in range(3):
        world.snapshot()
        for _ in range(3):
            change_model(world.model_path, rng)
    with world.open() as installation:
        forget_snapshots(installation, [f"{MODEL}@v1"])
        prune(installation, "disk", grace_seconds=0)
    del world.expected[1]
    return world


def index_of(world: World) -> tuple[Index, set[bytes]]:
    with world.open() as installation:
        repository = installation.repository("disk")
        marked = {p for stone in repository.read_tombstones(print) for p in stone.packs}
        return repository.load_index(print), marked


def kept_copies(world: World) -> list[bytes]:
    """Unmarked packs all of whose blobs lie in marked packs too."""
    index, marked = index_of(world)
    segment = index.freeze()
    found = {}
    for row in range(segment.count):
        number, record = segment.record(row)
        pack = index.pack_of(number)
        if pack not in marked:
            twice = any(copy.pack_id in marked for copy in index.copies(record.blob_id))
            found[pack] = found.get(pack, True) and twice
    return [pack for pack, twice in found.items() if twice]


def flip(path: Path) -> None:
    stored = bytearray(path.read_bytes())
    for at in range(0, len(stored), 64):
        stored[at] ^= 1
    path.write_bytes(stored)


@pytest.mark.parametrize("how", ["flipped", "truncated", "deleted"])
def test_a_restore_reads_the_marked_copy_where_the_other_is_damaged(world: World, how: str) -> None:
    packs = kept_copies(world)
    assert packs, "the prune copied nothing"
    for pack in packs:
        path = world.root / "repo" / pack_name(pack)
        if how == "flipped":
            flip(path)
        elif how == "truncated":
            path.write_bytes(path.read_bytes()[:100])
        else:
            path.unlink()
    with world.open() as installation:
        report = check(installation, "disk", read_data_percent=100)
    named = {finding.object_name for finding in report.findings if not finding.harmless}
    assert {pack_name(pack) for pack in packs} <= named
    hurt = [finding for finding in report.findings if finding.snapshots]
    if how == "deleted":
        # Prune takes the marks away, as it sees that no other copy is there.
        assert not hurt
    else:
        assert hurt
        assert all("packs that prune will delete" in finding.problem for finding in hurt)
    world.verify()


def test_a_sync_hands_on_the_copy_that_can_be_read(world: World) -> None:
    for pack in kept_copies(world):
        flip(world.root / "repo" / pack_name(pack))
    with world.open() as installation:
        results = replicate(installation, "disk", "copy1")
    assert results
    assert not [result.error for result in results if result.error]
    assert not world.findings("copy1")


def test_a_prune_copies_from_a_marked_pack_what_is_damaged_elsewhere(world: World) -> None:
    for pack in kept_copies(world):
        path = world.root / "repo" / pack_name(pack)
        stored = bytearray(path.read_bytes())
        stored[40] ^= 1
        path.write_bytes(stored)
    with pytest.MonkeyPatch.context() as patch:
        # All packs are small, so all are written anew, and what is marked is deleted.
        patch.setattr("backupd.repository.prune_plan.SMALL_PACK", 1 << 20)
        patch.setattr("backupd.repository.prune_plan.SMALL_PACKS", 1)
        for _ in range(3):
            with world.open() as installation:
                prune(installation, "disk", grace_seconds=0)
    world.verify()
    assert not world.findings()
