"""What a target is owed comes to it, what it dropped does not come back, both of a clash stay."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.errors import TargetReadOnlyError, TargetUnreachableError
from backupd.operations.catalog import list_snapshots, set_labels
from backupd.operations.forget import forget_by_policy, forget_snapshots
from backupd.operations.prune import prune
from backupd.operations.replicate import plan_replication, replicate
from backupd.operations.reports import TargetResult
from backupd.operations.resolve import resolve
from backupd.operations.setup import initialise
from backupd.operations.snapshot import take_snapshot
from backupd.targets.base import Target
from backupd.targets.wrapping import WrappedTarget
from tests.support.pair import Pair, assert_restores, on, rebuilt, take
from tests.support.world import (
    MODEL,
    Manifest,
    make_world,
    manifest_of,
)
from tests.support.world import small_packs as small_packs

pytestmark = pytest.mark.usefixtures("small_packs")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = make_world(tmp_path / "world", copies=1, size=1 << 18)
    yield Pair(made.root, made.targets)


def sync(pair: Pair, source: str = "disk", destination: str = "copy1") -> list[TargetResult]:
    with pair.open() as installation:
        return replicate(installation, source, destination, models=[MODEL])


def newest(pair: Pair, *versions: int) -> dict[int, Manifest]:
    return {version: pair.expected[version] for version in versions}


def test_a_target_that_was_away_gets_what_its_policy_keeps_the_newest_first(pair: Pair) -> None:
    for seed in range(5):
        take(pair, seed)
    assert [result.version for result in sync(pair)] == [5, 4, 3]
    assert_restores(pair, "copy1", newest(pair, 3, 4, 5))
    assert sync(pair) == []


def test_a_target_that_was_replaced_by_an_empty_one_is_filled_again(pair: Pair) -> None:
    for seed in range(4):
        take(pair, seed, copy=True)
    shutil.rmtree(pair.root / "copy1")
    with pair.open() as installation:
        initialise(installation)
    sync(pair)
    assert_restores(pair, "copy1", newest(pair, 2, 3, 4))


def test_an_older_one_that_a_target_lacks_is_filled_in(pair: Pair) -> None:
    for seed in range(3):
        take(pair, seed)
    sync(pair)
    for name in (pair.root / "copy1" / "snapshots").rglob("*0002"):
        name.unlink()
    assert on(pair, "copy1") == [1, 3]
    assert [result.version for result in sync(pair)] == [2]
    assert_restores(pair, "copy1", newest(pair, 1, 2, 3))


def test_what_the_policy_dropped_does_not_come_back_when_its_marker_is_gone(pair: Pair) -> None:
    for seed in range(5):
        take(pair, seed, copy=True)
    with pair.open() as installation:
        forget_by_policy(installation, now=pair.clock())
    assert on(pair, "copy1") == [3, 4, 5]
    for marker in (pair.root / "copy1" / "snapshots").rglob("*-forgotten"):
        marker.unlink()
    assert sync(pair) == []
    assert on(pair, "disk") == [1, 2, 3, 4, 5]


def test_what_a_person_dropped_does_not_come_back_ever(pair: Pair) -> None:
    for seed in range(3):
        take(pair, seed, copy=True)
    kept = pair.root / "kept"
    shutil.copytree(pair.root / "copy1", kept)
    with pair.open() as installation:
        forget_snapshots(installation, [f"{MODEL}@v2"])
    take(pair, 9)
    pair.ahead = 30 * 86_400.0
    with pair.open() as installation:
        forget_by_policy(installation, now=pair.clock())
        forget_snapshots(installation, [f"{MODEL}@v1"])
    shutil.rmtree(pair.root / "copy1")
    kept.rename(pair.root / "copy1")
    assert on(pair, "copy1") == [1, 2, 3]
    assert sync(pair, "copy1", "disk") == []
    assert on(pair, "disk") == [3, 4]


def test_labels_given_later_travel_too_and_keep_what_they_keep(pair: Pair) -> None:
    for seed in range(2):
        take(pair, seed)
    sync(pair)
    with pair.open() as installation:
        snapshot = resolve(installation, f"{MODEL}@v1", target="disk")
        assert snapshot.info.targets == ("disk",)
        set_labels(installation, snapshot, {"keep": "yes"})
    for seed in range(2, 6):
        take(pair, seed)
    sync(pair)
    with pair.open() as installation:
        forget_by_policy(installation, now=pair.clock())
        found = list_snapshots(installation, model=MODEL, targets=["copy1"])
    assert {info.version: dict(info.labels) for info in found}[1] == {"keep": "yes"}
    assert_restores(pair, "copy1", newest(pair, 1, 4, 5, 6))


def test_a_dry_run_tells_what_the_copy_brings_and_changes_nothing(pair: Pair) -> None:
    for seed in range(3):
        take(pair, seed)
    before = sorted(path for path in (pair.root / "copy1").rglob("*") if path.is_file())
    with pair.open() as installation:
        planned = plan_replication(installation, "disk", "copy1", models=[MODEL])
    assert sorted(path for path in (pair.root / "copy1").rglob("*") if path.is_file()) == before
    assert [entry.version for entry in planned] == [3, 2, 1]
    stored = sum(result.stored_bytes for result in sync(pair))
    assert sum(entry.copied_bytes for entry in planned) == pytest.approx(stored, rel=0.1)


def test_packs_travel_under_their_own_names(pair: Pair) -> None:
    take(pair, 1)
    sync(pair)
    names = [
        {path.name for path in (pair.root / folder / "packs").rglob("*") if path.is_file()}
        for folder in ("repo", "copy1")
    ]
    assert names[0] == names[1]


def test_a_pack_that_is_due_to_go_on_the_receiver_is_not_relied_on(pair: Pair) -> None:
    take(pair, 1)
    sync(pair)
    with pair.open() as installation:
        forget_snapshots(installation, [f"{MODEL}@v1"])
        prune(installation, "copy1", grace_seconds=0)
    pair.expected.clear()
    # The same content again, under the names of the packs that the receiver has marked.
    manifest = manifest_of(pair.model_path)
    with pair.open() as installation:
        report = take_snapshot(
            installation, pair.settings.models[MODEL], labels={"again": "1"}, copy=False
        )
    assert report.snapshot is not None
    pair.expected[report.snapshot.version] = manifest
    sync(pair)
    with pair.open() as installation:
        for _ in range(2):
            prune(installation, "copy1", grace_seconds=0)
    assert_restores(pair, "copy1", pair.expected)


def test_a_damaged_pack_is_not_handed_on(pair: Pair) -> None:
    take(pair, 1)
    victim = max((pair.root / "repo" / "packs").rglob("*"), key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    [result] = sync(pair)
    assert "damaged" in result.error
    assert on(pair, "copy1") == []


# -- two snapshots under one number --------------------------------------------------------------


@pytest.mark.parametrize("way", [("disk", "copy1"), ("copy1", "disk")])
def test_of_two_snapshots_under_one_number_both_are_kept(pair: Pair, way: tuple[str, str]) -> None:
    earlier, later = rebuilt(pair)
    said = [result for result in sync(pair, *way) if result.was]
    assert [(result.target, result.was, result.version) for result in said] == [("disk", 2, 3)]
    sync(pair, *reversed(way))
    both = {1: pair.expected[1], 2: earlier, 3: later}
    for target in ("disk", "copy1"):
        assert_restores(pair, target, both)
        with pair.open() as installation:
            found = list_snapshots(installation, model=MODEL, targets=[target])
        assert [dict(info.labels) for info in found] == [{}, {}, {"keep": "x"}]
    assert sync(pair) == sync(pair, "copy1", "disk") == []


class Keeping(WrappedTarget):
    """A target from which nothing can be deleted, as under Object Lock."""

    def delete(self, name: str) -> None:
        raise TargetReadOnlyError(f"{name} is locked")


def test_a_number_that_cannot_be_freed_leaves_both_names_and_loses_nothing(pair: Pair) -> None:
    earlier, later = rebuilt(pair)

    def wrap(target: Target) -> Target:
        return Keeping(target) if target.name == "disk" else target

    for _ in range(2):
        with pair.open(wrap) as installation:
            replicate(installation, "disk", "copy1", models=[MODEL])
    assert on(pair, "disk") == [1, 2, 3]
    assert_restores(pair, "copy1", {1: pair.expected[1], 2: earlier, 3: later})


class Hanging(WrappedTarget):
    """A target that does not answer until the test ends, as a dead mount or a lost network."""

    def __init__(self, target: Target, ended: threading.Event) -> None:
        super().__init__(target)
        self._ended = ended

    def get(self, name: str, max_bytes: int) -> bytes:
        self._ended.wait(120)
        raise TargetUnreachableError("it hangs")


def test_a_target_that_hangs_does_not_hold_up_the_snapshot_on_the_nearest(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backupd.operations.fan_out._ANSWER_SECONDS", 0.2)
    ended = threading.Event()

    def wrap(target: Target) -> Target:
        return Hanging(target, ended) if target.name == "copy1" else target

    began = time.monotonic()
    with pair.open(wrap) as installation:
        report = take_snapshot(installation, pair.settings.models[MODEL], copy=False)
        seconds = time.monotonic() - began
        ended.set()
    assert seconds < 60
    assert report.snapshot is not None
    assert report.snapshot.targets == ("disk",)
    assert [result.target for result in report.targets if result.pending] == ["copy1"]


def test_a_number_that_is_known_to_be_taken_is_not_taken_again(pair: Pair) -> None:
    with pair.open() as installation:
        model = pair.settings.models[MODEL]
        report = take_snapshot(installation, model, copy=False, known_version=7)
    assert report.snapshot is not None
    assert report.snapshot.version == 8
