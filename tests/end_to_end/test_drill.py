"""Restoring for practice: what comes back is compared, what is wrong is named, nothing is left."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.config.settings import UpkeepSettings
from backupd.errors import NotFoundError
from backupd.operations.drill import drill
from backupd.operations.installation import Installation
from backupd.operations.reports import DrillReport
from tests.support.world import MODEL, World, change_model, make_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path, size=1 << 17)
    world.snapshot()
    change_model(world.model_path, random.Random(1))
    world.snapshot()
    return world


def practise(world: World, spec: str = "", **upkeep: object) -> DrillReport:
    settings = replace(world.settings, upkeep=UpkeepSettings(**upkeep))  # type: ignore[arg-type]
    with Installation(settings, environment={}, clock=world.clock) as installation:
        report = drill(installation, spec)
    assert not (world.root / "state" / "drill").exists(), "the scratch folder is left"
    return report


def test_a_drill_restores_and_compares_with_the_hashes_and_the_live_folder(world: World) -> None:
    report = practise(world, f"{MODEL}@latest")
    assert report.clean
    assert report.files > 20
    assert report.live_files == report.files, "nothing changed since"
    assert not report.left_out
    older = practise(world, f"{MODEL}@v1")
    assert older.clean
    assert 0 < older.live_files < older.files


def test_a_drill_takes_what_fits_and_counts_the_rest(world: World) -> None:
    report = practise(world, f"{MODEL}@latest", drill_size_bytes=20_000)
    assert report.clean
    assert report.size_bytes <= 20_000
    assert report.left_out
    assert report.files


def test_a_drill_draws_a_snapshot_where_none_is_named(world: World) -> None:
    drawn: set[str] = set()
    for _ in range(200):  # a dozen draws would be all the same in one run of two thousand
        drawn.add(practise(world).snapshot)
        if len(drawn) == 2:
            break
    assert drawn == {f"{MODEL}@v1", f"{MODEL}@v2"}


def test_a_drill_names_what_does_not_come_back(world: World) -> None:
    for path in (world.root / "repo").glob("packs/*/*"):
        stored = bytearray(path.read_bytes())
        stored[100] ^= 1
        path.write_bytes(stored)
    report = practise(world, f"{MODEL}@latest")
    assert not report.clean
    assert all(why for why in report.failed.values())


def test_a_drill_finds_a_live_file_that_rotted_under_its_old_time(world: World) -> None:
    path = world.model_path / "weights.bin"
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[5000] ^= 4
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    report = practise(world, f"{MODEL}@latest")
    assert "in the model's folder" in report.failed["weights.bin"]


def test_a_drill_of_nothing_says_so(tmp_path: Path) -> None:
    world = make_world(tmp_path / "empty", size=1000)
    with pytest.raises(NotFoundError):
        practise(world)
