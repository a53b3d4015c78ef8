"""Snapshots that lie on different targets, as each of two was in trouble in turn: all are owed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from backupd.config.settings import ModelSettings
from backupd.errors import TargetReadOnlyError
from backupd.operations.catalog import list_snapshots
from backupd.operations.progress import NoProgress
from backupd.operations.replicate import catch_up
from backupd.operations.snapshot import take_snapshot
from backupd.targets.base import Target
from backupd.targets.wrapping import WrappedTarget
from tests.support.world import MODEL, World, change_model, make_world

TARGETS = ("disk", "copy1", "copy2")


class ReadOnly(WrappedTarget):
    """A target of which nothing may be changed."""

    def put(self, name: str, parts: object, *, warm: bool = True) -> None:
        raise TargetReadOnlyError(f"target {self.name!r} is read-only")

    def put_if_absent(self, name: str, parts: object) -> bool:
        raise TargetReadOnlyError(f"target {self.name!r} is read-only")


def locking(name: str) -> Callable[[Target], Target]:
    return lambda target: ReadOnly(target) if target.name == name else target


class Crossing:
    """v1 on all three targets, v2 on `copy1` alone, v3 on `disk` alone."""

    def __init__(self, root: Path) -> None:
        self.world: World = make_world(root, copies=2, size=1 << 17)
        self.model = ModelSettings(MODEL, self.world.model_path, dict.fromkeys(TARGETS, ()))
        self.take(copy=True)
        self.take(locked="disk")
        self.take(locked="copy1")

    def take(self, *, copy: bool = False, locked: str = "") -> None:
        change_model(self.world.model_path, random.Random(locked))
        with self.world.open(locking(locked)) as installation:
            take_snapshot(installation, self.model, copy=copy)

    def catch_up(self, name: str, *, newest: int = 0, locked: str = "") -> list[int]:
        with self.world.open(locking(locked)) as installation:
            found = catch_up(
                installation,
                self.model,
                name,
                newest=newest,
                progress=NoProgress(),
                stop=threading.Event(),
            )
        return [result.version for result in found]

    def on(self, name: str) -> list[int]:
        with self.world.open() as installation:
            found = list_snapshots(installation, model=MODEL, targets=[name])
        return sorted(info.version for info in found)


@pytest.fixture
def crossing(tmp_path: Path) -> Crossing:
    made = Crossing(tmp_path / "world")
    assert [made.on(name) for name in TARGETS] == [[1, 3], [1, 2], [1]]
    return made


@pytest.mark.parametrize("newest", [0, 3])
def test_a_target_that_cannot_be_written_says_so_though_another_owes_it_nothing(
    crossing: Crossing, newest: int
) -> None:
    with pytest.raises(TargetReadOnlyError, match="copy1"):
        crossing.catch_up("copy1", newest=newest, locked="copy1")


def test_all_targets_have_everything_after_each_was_looked_at_in_whole(crossing: Crossing) -> None:
    assert crossing.catch_up("disk") == [2]
    assert crossing.catch_up("copy1") == [3]
    assert sorted(crossing.catch_up("copy2")) == [2, 3]
    assert [crossing.on(name) for name in TARGETS] == [[1, 2, 3]] * 3
