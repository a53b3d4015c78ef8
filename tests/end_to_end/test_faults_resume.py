"""Snapshots cut short and taken up again, and several at work on one repository at once."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backupd.errors import StoppedError
from backupd.operations.forget import forget_snapshots
from backupd.operations.prune import prune
from backupd.operations.snapshot import take_snapshot
from backupd.targets.base import Target
from tests.support.killing import killed_at
from tests.support.world import (
    MODEL,
    PACK_SIZE,
    Countdown,
    GatedTarget,
    World,
    change_model,
    make_world,
    manifest_of,
)
from tests.support.world import small_packs as small_packs

pytestmark = pytest.mark.usefixtures("small_packs")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield make_world(tmp_path / "world", size=2 << 20)


def stored_bytes(world: World) -> int:
    return sum(path.stat().st_size for path in (world.root / "repo" / "packs").rglob("*/*"))


def whole_bytes(world: World) -> int:
    """What the packs of the model take when nothing is cut short."""
    model = world.settings.models[MODEL]
    twin = make_world(world.root / "twin", size=1)
    shutil.rmtree(twin.model_path)
    shutil.copytree(model.path, twin.model_path, symlinks=True)
    twin.snapshot()
    return stored_bytes(twin)


def take(world: World, wrap: Callable[[Target], Target], stop: threading.Event) -> None:
    with world.open(wrap) as installation:
        take_snapshot(installation, world.settings.models[MODEL], stop=stop)


def test_a_snapshot_cut_short_resumes_without_storing_twice(world: World) -> None:
    whole = whole_bytes(world)

    def work(world: World, wrap: Callable[[Target], Target]) -> None:
        take(world, wrap, threading.Event())

    assert killed_at(16, world, work, after=True)
    before = stored_bytes(world)
    assert before > 0.3 * whole
    world.snapshot()
    # What a crash may cost: packs that no index named yet, three in this test and those on
    # their way.
    assert stored_bytes(world) <= whole + 6 * PACK_SIZE
    world.verify()
    with world.open() as installation:
        for _ in range(2):
            prune(installation, "disk", grace_seconds=0)
    assert world.orphans() == []


def test_a_snapshot_that_is_asked_to_stop_keeps_every_byte_it_stored(world: World) -> None:
    whole = whole_bytes(world)
    stop = threading.Event()
    halt = Countdown(10, stop.set)
    with pytest.raises(StoppedError) as stopped:
        take(world, lambda target: GatedTarget(target, after=halt), stop)
    assert stopped.value.exit_code == 130
    before = stored_bytes(world)
    assert 0 < before < whole
    world.snapshot()
    # Packs are cut in other places, which costs some tables; no content is stored twice.
    assert stored_bytes(world) <= whole * 1.02 + 16 * 1024
    assert world.temporaries() == []
    world.verify()


def test_two_snapshots_of_a_model_at_once_share_no_version(world: World) -> None:
    def one(number: int) -> int:
        with world.open() as installation:
            model = world.settings.models[MODEL]
            report = take_snapshot(installation, model, labels={"number": str(number)})
            assert report.snapshot is not None
            return report.snapshot.version

    manifest = manifest_of(world.model_path)
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(one, range(8)))
    assert sorted(versions) == list(range(1, 9))
    world.expected = dict.fromkeys(versions, manifest)
    world.verify()
    assert world.findings() == []


def test_a_prune_beside_a_snapshot_never_hurts_it(world: World) -> None:
    """Content that was forgotten and marked comes back while prune runs and runs."""
    rng = random.Random(8)
    weights = world.model_path / "weights.bin"
    kept = weights.read_bytes()
    world.snapshot()
    over = threading.Event()
    failures: list[BaseException] = []

    def keep_pruning() -> None:
        try:
            while not over.is_set():
                with world.open() as installation:
                    prune(installation, "disk")
                time.sleep(0.05)
        except BaseException as error:
            failures.append(error)

    pruner = threading.Thread(target=keep_pruning)
    pruner.start()
    try:
        for number in range(6):
            # Two days and more lie between, so marks come of age while others are made.
            world.ahead += 30 * 3600
            weights.write_bytes(rng.randbytes(1 << 20) if number % 2 else kept)
            change_model(world.model_path, rng)
            world.snapshot()
            oldest = min(world.expected)
            with world.open() as installation:
                forget_snapshots(installation, [f"{MODEL}@v{oldest}"])
            del world.expected[oldest]
            time.sleep(0.1)
            world.verify()
    finally:
        over.set()
        pruner.join()
    assert not failures, failures
    assert world.findings() == []


def test_restores_beside_each_other_and_a_snapshot_are_all_right(world: World) -> None:
    world.snapshot()
    change_model(world.model_path, random.Random(9))
    world.snapshot()

    def one(number: int) -> None:
        version = 1 + number % 2
        out = world.root / f"out{number}"
        report = world.restore(version, out)
        assert not report.failed
        assert manifest_of(out) == world.expected[version]

    with ThreadPoolExecutor(5) as pool:
        restores = [pool.submit(one, number) for number in range(6)]
        change_model(world.model_path, random.Random(10))
        world.snapshot()
        for restored in restores:
            restored.result()
