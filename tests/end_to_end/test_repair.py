"""A damaged target is mended from another, from the live folder, or says what is lost."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from backupd.errors import DamagedError
from backupd.operations.catalog import set_labels
from backupd.operations.check import check
from backupd.operations.forget import forget_snapshots
from backupd.operations.prune import prune
from backupd.operations.repair import repair
from backupd.operations.replicate import replicate
from backupd.operations.reports import RepairReport
from backupd.operations.resolve import resolve
from backupd.repository.layout import pack_name
from tests.end_to_end.test_damage_copies import flip, kept_copies
from tests.support.world import MODEL, World, change_model, make_world, scratch
from tests.support.world import small_packs as small_packs

pytestmark = pytest.mark.usefixtures("small_packs")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two targets with three versions, of which one has labels."""
    world = make_world(tmp_path, size=1 << 17, copies=1, keys_seed=3)
    rng = random.Random(3)
    for _ in range(3):
        world.snapshot()
        change_model(world.model_path, rng)
    with world.open() as installation:
        replicate(installation, "disk", "copy1")
        set_labels(installation, resolve(installation, f"{MODEL}@v2"), {"release": "yes"})
    return world


def mend(world: World, target: str = "disk", **options: object) -> RepairReport:
    with world.open() as installation:
        return repair(installation, target, **options)  # type: ignore[arg-type]


def objects(world: World, pattern: str) -> list[Path]:
    return sorted(path for path in (world.root / "repo").glob(pattern) if path.is_file())


def whole(world: World) -> None:
    """Everything restores, and check with all data read finds nothing that matters."""
    world.verify()
    assert not world.findings()


def alone(world: World) -> None:
    """The other target is gone."""
    shutil.rmtree(world.root / "copy1")


@pytest.mark.parametrize("how", ["flipped", "truncated", "deleted"])
def test_packs_are_mended_from_another_target(world: World, how: str) -> None:
    packs = objects(world, "packs/*/*")
    names = {path.name for path in (world.root / "copy1").glob("packs/*/*")}
    # Of those that the other has too every second; what is in the rest it has in other packs.
    shared = [path for path in packs if path.name in names]
    for path in [*shared[::2], *(path for path in packs if path.name not in names)]:
        if how == "flipped":
            flip(path)
        elif how == "truncated":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        else:
            path.unlink()
    before = {finding.object_name for finding in world.findings()}
    report = mend(world)
    assert not report.lost, report.lost
    assert {done.source for done in report.mended if done.verb == "store"} >= {"copy1"}
    assert before <= {done.object_name for done in report.mended}
    whole(world)
    again = mend(world)
    assert not again.mended
    with world.open() as installation:
        # What was mended is in other packs, and the damaged ones go.
        prune(installation, "disk", grace_seconds=0)
        prune(installation, "disk", grace_seconds=0)
        assert not check(installation, "disk", read_data_percent=100).findings
    whole(world)


def test_a_pack_that_another_target_has_comes_back_with_its_very_bytes(world: World) -> None:
    own = (world.root / "copy1" / "repository.json").read_bytes()
    shutil.rmtree(world.root / "copy1")
    shutil.copytree(world.root / "repo", world.root / "copy1")
    (world.root / "copy1" / "repository.json").write_bytes(own)
    sound = {path: path.read_bytes() for path in objects(world, "packs/*/*")}
    for number, path in enumerate(sound):
        (flip, Path.unlink, lambda p: p.write_bytes(b""))[number % 3](path)
    report = mend(world)
    assert not report.lost
    assert {path: path.read_bytes() for path in objects(world, "packs/*/*")} == sound
    whole(world)


def test_a_single_target_is_mended_from_the_folder_it_was_taken_of(world: World) -> None:
    world.snapshot()
    alone(world)
    newest = max(world.expected)
    for path in objects(world, "packs/*/*"):
        flip(path)
    report = mend(world)
    assert report.lost
    named = {name for finding in report.lost for name in finding.snapshots}
    assert f"{MODEL}@v1" in named
    whence = {done.source for done in report.mended if done.verb == "store"}
    assert "the folder it was taken of" in whence
    with scratch(world.root / "restored") as out:
        given = world.restore(newest, out)
        assert not given.failed, "all of it is in the live folder and in the state folder's trees"
    for version in world.expected:
        lost = {
            path
            for finding in report.lost
            if f"{MODEL}@v{version}" in finding.snapshots
            for path in finding.files
        }
        with scratch(world.root / "restored") as out:
            given = world.restore(version, out)
            assert {path for path in given.failed if path[0] != "("} <= lost | {"weights.link"}


@pytest.mark.parametrize("kind", ["keys/*", "snapshots/*/*", "index/*", "repository.json"])
@pytest.mark.parametrize("how", ["bit", "garbage", "truncated"])
def test_small_objects_are_mended_from_another_target(world: World, kind: str, how: str) -> None:
    with world.open() as installation:
        labels = resolve(installation, f"{MODEL}@v2").info.labels
    for path in objects(world, kind):
        stored = bytearray(path.read_bytes())
        if how == "bit":
            stored[len(stored) // 2] ^= 4
        else:
            stored = stored[:9] if how == "truncated" else bytearray(b"garbage" * 9)
        path.write_bytes(stored)
    report = mend(world)
    assert not report.lost, report.lost
    assert report.mended
    whole(world)
    with world.open() as installation:
        found = resolve(installation, f"{MODEL}@v2", target="disk").info.labels
    assert found == labels
    assert not mend(world).mended


@pytest.mark.parametrize("kind", ["keys/*", "snapshots/*/*", "index/*", "repository.json"])
def test_one_flipped_bit_in_a_small_object_needs_no_other_target(world: World, kind: str) -> None:
    alone(world)
    rng = random.Random(5)
    for path in objects(world, kind):
        stored = bytearray(path.read_bytes())
        stored[rng.randrange(len(stored))] ^= 1 << rng.randrange(8)
        path.write_bytes(stored)
    report = mend(world)
    assert not report.lost, report.lost
    whole(world)


def test_a_lost_repository_json_and_lost_keys_close_nothing(world: World) -> None:
    (world.root / "repo" / "repository.json").unlink()
    shutil.rmtree(world.root / "repo" / "keys")
    report = mend(world)
    assert not report.lost
    whole(world)


def test_what_only_marked_packs_hold_is_brought_back_to_life(world: World) -> None:
    alone(world)
    with world.open() as installation:
        forget_snapshots(installation, [f"{MODEL}@v1"])
        prune(installation, "disk", grace_seconds=0)
    del world.expected[1]
    packs = kept_copies(world)
    assert packs
    for pack in packs:
        flip(world.root / "repo" / pack_name(pack))
    shutil.rmtree(world.model_path)
    report = mend(world)
    assert not report.lost, report.lost
    for _ in range(2):
        with world.open() as installation:
            prune(installation, "disk", grace_seconds=0)
    whole(world)


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(world: World) -> None:
    for path in objects(world, "packs/*/*")[:3] + objects(world, "index/*")[:1]:
        flip(path)
    before = {path: path.read_bytes() for path in objects(world, "**/*")}
    report = mend(world, dry_run=True)
    assert report.dry_run
    assert {done.verb for done in report.mended} >= {"drop", "index"}
    assert {path: path.read_bytes() for path in objects(world, "**/*")} == before
    done = mend(world)
    assert {d.object_name for d in report.mended} == {d.object_name for d in done.mended}


def test_a_source_that_is_damaged_too_is_not_believed(world: World) -> None:
    for folder in ("repo", "copy1"):
        for path in (world.root / folder).glob("packs/*/*"):
            flip(path)
    shutil.rmtree(world.model_path)
    report = mend(world)
    assert report.lost
    assert not [done for done in report.mended if done.source == "copy1"]


def test_a_pack_of_which_nobody_knows_what_it_holds_goes_after_the_grace(world: World) -> None:
    strange = world.root / "repo" / "packs" / "ab" / ("ab" * 32)
    strange.parent.mkdir(exist_ok=True)
    strange.write_bytes(b"no pack at all, and no index that names it")
    report = mend(world)
    assert not report.lost
    with world.open() as installation:
        for _ in range(2):
            prune(installation, "disk", grace_seconds=0)
        assert not check(installation, "disk", read_data_percent=100).findings
    assert not strange.exists()
    whole(world)


def test_a_snapshot_that_nobody_can_mend_is_forgotten_by_its_version(world: World) -> None:
    for folder in ("repo", "copy1"):
        for path in (world.root / folder).glob("snapshots/*/0000000002"):
            path.write_bytes(path.read_bytes()[:30])
    report = mend(world)
    assert [f.object_name for f in report.lost if f.object_name.endswith("/0000000002")]
    with world.open() as installation:
        with pytest.raises(DamagedError, match="not pruned"):
            prune(installation, "disk", grace_seconds=0)
        planned = forget_snapshots(installation, [f"{MODEL}@v2"], dry_run=True)
        done = forget_snapshots(installation, [f"{MODEL}@v2"])
        assert {item.target for item in done.forgotten} == {"disk", "copy1"}
        assert planned.forgotten == done.forgotten
        prune(installation, "disk", grace_seconds=0)
    del world.expected[2]
    whole(world)


def test_a_snapshot_that_is_damaged_on_one_target_is_forgotten_on_all(world: World) -> None:
    for path in (world.root / "repo").glob("snapshots/*/0000000002"):
        path.write_bytes(b"")
    with world.open() as installation:
        done = forget_snapshots(installation, [f"{MODEL}@v2"])
        assert {item.target for item in done.forgotten} == {"disk", "copy1"}
        prune(installation, "disk", grace_seconds=0)
    del world.expected[2]
    whole(world)
