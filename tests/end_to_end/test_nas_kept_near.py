"""What is kept in the state folder of a far target hides no damage of it from a check."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.config.settings import NasTarget
from backupd.operations.catalog import list_snapshots
from backupd.operations.check import check
from backupd.operations.repair import repair
from tests.support.world import World, change_model, make_world, manifest_of, scratch
from tests.targets.conftest import mounted_tmpfs


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with mounted_tmpfs(tmp_path / "mount") as mount:
        world = make_world(
            tmp_path / "world", size=1 << 16, copies=1, disk=NasTarget("disk", mount / "models")
        )
        rng = random.Random(1)
        for _ in range(3):
            world.snapshot()
            change_model(world.model_path, rng)
        yield world


def versions(world: World) -> list[int]:
    with world.open() as installation:
        return [info.version for info in list_snapshots(installation, targets=["disk"])]


def rot(path: Path) -> None:
    """Turn a bit, as a disk does: neither length nor time tell of it."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.chmod(0o600)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("kind", ["snapshots", "index"])
def test_rot_is_named_by_a_check_and_mended_though_a_sound_copy_is_near(
    world: World, kind: str, tmp_path: Path
) -> None:
    assert versions(world) == [1, 2, 3]
    store = world.targets["disk"].path  # type: ignore[union-attr]
    spoilt = sorted(path for path in (store / kind).rglob("*") if path.is_file())[0]
    name = str(spoilt.relative_to(store))
    rot(spoilt)
    assert versions(world) == [1, 2, 3], "what is near at hand is as good"
    with world.open() as installation:
        report = check(installation, "disk")
    assert name in {finding.object_name for finding in report.findings}
    with world.open() as installation:
        assert not repair(installation, "disk").lost
    with world.open() as installation:
        assert check(installation, "disk", read_data_percent=100).clean
    with scratch(tmp_path / "out") as out:
        world.restore(1, out)
        assert manifest_of(out) == world.expected[1]
