"""Real disks that are full, turn read-only or are not there: one clear error, and nothing lost."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backupd.config.settings import LocalTarget, NasTarget
from backupd.errors import (
    EXIT_TARGET,
    BackupdError,
    TargetFullError,
    TargetReadOnlyError,
    TargetUnreachableError,
)
from backupd.operations.forget import forget_snapshots
from backupd.operations.prune import prune
from backupd.operations.resolve import resolve
from backupd.operations.restore import RestoreRequest, restore
from backupd.operations.snapshot import take_snapshot
from backupd.targets.base import Target
from tests.support.world import (
    MODEL,
    Countdown,
    GatedTarget,
    World,
    change_model,
    make_world,
    manifest_of,
)
from tests.support.world import small_packs as small_packs

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("small_packs")]

MIB = 1 << 20
DISKS = ("tmpfs", "ext4", "inodes")


def command(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


@contextmanager
def mounted(base: Path, kind: str, size: int = 16 * MIB) -> Iterator[Path]:
    """A small disk of its own."""
    place = base / "mount"
    place.mkdir()
    if kind == "ext4":
        image = base / "image"
        with image.open("wb") as file:
            file.truncate(size)
        command("mkfs.ext4", "-q", "-m", "0", image)
        command("mount", "-o", "loop", image, place)
    else:
        limit = "nr_inodes=400" if kind == "inodes" else "nr_inodes=100k"
        command("mount", "-t", "tmpfs", "-o", f"size={size},{limit}", "tmpfs", place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)


class Filler:
    """What takes the room on a disk away, and gives it back."""

    def __init__(self, place: Path, kind: str) -> None:
        self._folder = place / "filler"
        self._folder.mkdir()
        self._kind = kind

    def fill(self, *, leave: int) -> None:
        """Leave so many bytes (or for inodes, one for each 64 KiB of them)."""
        status = os.statvfs(self._folder)
        if self._kind == "inodes":
            for number in range(status.f_favail - leave // 65536):
                (self._folder / str(number)).touch()
            return
        left = status.f_bavail * status.f_frsize - leave
        try:
            # Opening may fail already: the last block may have gone to the world's own objects.
            with (self._folder / "data").open("wb") as file:
                while left > 0:
                    left -= file.write(bytes(min(left, 4096)))
                    file.flush()
        except OSError:
            pass

    def empty(self) -> None:
        for path in self._folder.iterdir():
            path.unlink()


@pytest.fixture(params=DISKS)
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Path, Filler]]:
    with mounted(tmp_path, request.param) as place:
        yield place, Filler(place, request.param)


def attest(world: World) -> None:
    assert world.temporaries() == []
    world.verify()
    assert world.findings() == []


def test_a_disk_that_fills_up_in_a_snapshot_loses_nothing(
    tmp_path: Path, disk: tuple[Path, Filler]
) -> None:
    place, filler = disk
    world = make_world(tmp_path / "world", size=MIB, disk=LocalTarget("disk", place / "repo"))
    world.snapshot()
    (world.model_path / "weights.bin").write_bytes(random.Random(1).randbytes(2 * MIB))
    filler.fill(leave=640 * 1024)
    with world.open() as installation, pytest.raises(TargetFullError) as full:
        take_snapshot(installation, world.settings.models[MODEL])
    assert full.value.exit_code == EXIT_TARGET
    assert "full" in full.value.message and full.value.hint
    attest(world)
    # And while it is full: prune can be run, as its hint says, or says the same.
    with world.open() as installation:
        try:
            prune(installation, "disk", grace_seconds=0)
        except TargetFullError:
            pass
    attest(world)
    filler.empty()
    world.snapshot()
    attest(world)
    with world.open() as installation:
        for _ in range(2):
            prune(installation, "disk", grace_seconds=0)
    assert world.orphans() == []


def test_a_disk_without_a_byte_left_ends_prune_with_a_sentence_and_loses_nothing(
    tmp_path: Path, disk: tuple[Path, Filler]
) -> None:
    place, filler = disk
    world = make_world(tmp_path / "world", size=MIB // 2, disk=LocalTarget("disk", place / "repo"))
    rng = random.Random(2)
    for _ in range(3):
        world.snapshot()
        change_model(world.model_path, rng)
    with world.open() as installation:
        forget_snapshots(installation, [f"{MODEL}@v1", f"{MODEL}@v2"])
    del world.expected[1], world.expected[2]
    filler.fill(leave=0)
    for _ in range(2):
        with world.open() as installation, pytest.raises(TargetFullError):
            prune(installation, "disk", grace_seconds=0)
        attest(world)
    filler.empty()
    with world.open() as installation:
        for _ in range(2):
            prune(installation, "disk", grace_seconds=0)
    assert world.orphans() == []
    attest(world)


def test_a_disk_that_fills_up_in_a_restore_ends_it_and_the_next_goes_on(
    tmp_path: Path, disk: tuple[Path, Filler]
) -> None:
    place, filler = disk
    world = make_world(tmp_path / "world", size=MIB)
    world.snapshot()
    filler.fill(leave=MIB)
    out = place / "out"
    with world.open() as installation:
        snapshot = resolve(installation, f"{MODEL}@v1")
        with pytest.raises(BackupdError) as full:
            restore(installation, snapshot, RestoreRequest(to=out))
    assert "space" in str(full.value).lower() or "full" in str(full.value).lower()
    given = {path: what for path, what in manifest_of(out).items() if not path.startswith(".")}
    for path, what in given.items():
        if isinstance(what[2] if len(what) > 2 else None, str) and what[2]:
            assert what[:3] == world.expected[1][path][:3], "a file that was not verified is there"
    assert not [path for path in given if path not in world.expected[1]]
    filler.empty()
    report = world.restore(1, out)
    assert not report.failed
    assert manifest_of(out) == world.expected[1]


@pytest.mark.parametrize("verb", ["snapshot", "prune"])
@pytest.mark.parametrize("at", [1, 4])
def test_a_target_that_turns_read_only_loses_nothing(tmp_path: Path, verb: str, at: int) -> None:
    with mounted(tmp_path, "ext4") as place:
        world = make_world(tmp_path / "world", disk=LocalTarget("disk", place / "repo"))
        rng = random.Random(3)
        for _ in range(2):
            world.snapshot()
            (world.model_path / "weights.bin").write_bytes(rng.randbytes(MIB))
        with world.open() as installation:
            forget_snapshots(installation, [f"{MODEL}@v1"])
            prune(installation, "disk", grace_seconds=0)
        del world.expected[1]
        turn = Countdown(at, lambda: make_read_only(place))

        def wrap(target: Target) -> Target:
            return GatedTarget(target, before=turn)

        with world.open(wrap) as installation, pytest.raises(TargetReadOnlyError) as refused:
            work_of(verb)(installation, world)
        assert refused.value.exit_code == EXIT_TARGET and refused.value.hint
        world.verify()
        assert world.findings() == []
        command("mount", "-o", "remount,rw", place)
        # What was being written then could not even be removed; it is swept after a day.
        assert len(world.temporaries()) <= 2
        world.snapshot()
        world.verify()
        assert world.findings() == []
        with world.open() as installation:
            for _ in range(2):
                prune(installation, "disk", grace_seconds=0)
        assert world.orphans() == []


def make_read_only(place: Path) -> None:
    """As a disk does by itself after an error; the kernel waits for nobody who is writing."""
    for _ in range(100):
        done = subprocess.run(["mount", "-o", "remount,ro", place], check=False)
        if not done.returncode:
            return
        time.sleep(0.02)
    raise AssertionError(f"{place} stays busy")


def work_of(verb: str) -> Callable[..., object]:
    if verb == "snapshot":
        return lambda installation, world: take_snapshot(installation, world.settings.models[MODEL])
    return lambda installation, world: prune(installation, "disk", grace_seconds=0)


def test_an_absent_nas_is_refused_and_the_folder_under_it_stays_empty(tmp_path: Path) -> None:
    with mounted(tmp_path, "tmpfs") as place:
        nas = NasTarget("disk", place / "repo", require_mount=True)
        world = make_world(tmp_path / "world", disk=nas)
        world.snapshot()
        change_model(world.model_path, random.Random(4))
        hidden = tmp_path / "elsewhere"
        hidden.mkdir()
        command("mount", "--move", place, hidden)
        try:
            with world.open() as installation, pytest.raises(TargetUnreachableError) as absent:
                take_snapshot(installation, world.settings.models[MODEL])
            assert absent.value.exit_code == EXIT_TARGET and absent.value.hint
            assert os.listdir(place) == []
        finally:
            command("mount", "--move", hidden, place)
        world.snapshot()
        attest(world)


def test_a_nas_that_goes_away_in_the_middle_of_a_snapshot_loses_nothing(tmp_path: Path) -> None:
    with mounted(tmp_path, "tmpfs") as place:
        nas = NasTarget("disk", place / "repo", require_mount=True)
        world = make_world(tmp_path / "world", disk=nas)
        world.snapshot()
        (world.model_path / "weights.bin").write_bytes(random.Random(5).randbytes(MIB))
        hidden = tmp_path / "elsewhere"
        hidden.mkdir()
        leave = Countdown(3, lambda: command("mount", "--move", place, hidden))
        try:
            with (
                world.open(lambda target: GatedTarget(target, before=leave)) as installation,
                pytest.raises(TargetUnreachableError),
            ):
                take_snapshot(installation, world.settings.models[MODEL])
            assert os.listdir(place) == []
        finally:
            command("mount", "--move", hidden, place)
        world.snapshot()
        attest(world)
