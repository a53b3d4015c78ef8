"""`kill -9` while snapshots are copied from target to target, and while a number is changed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from backupd.operations.replicate import replicate
from backupd.targets.base import Target
from tests.support.killing import killed_at
from tests.support.pair import Pair, assert_restores, on, rebuilt, take
from tests.support.world import (
    HOST,
    MODEL,
    Manifest,
    World,
    change_model,
    make_world,
    manifest_of,
    scratch,
)
from tests.support.world import small_packs as small_packs

pytestmark = pytest.mark.usefixtures("small_packs")

FOLDERS = ("repo", "copy1", "state")


@pytest.fixture
def pair() -> Iterator[Pair]:
    with scratch(Path("/dev/shm") / f"backupd-copies-{os.getpid()}") as root:
        made = make_world(root, copies=1, size=1 << 18)
        yield Pair(made.root, made.targets)


def copying(world: World, wrap: Callable[[Target], Target]) -> None:
    with world.open(wrap) as installation:
        replicate(installation, "disk", "copy1", models=[MODEL])


def points(many: bool, seed: int, most: int) -> Iterator[tuple[int, bool]]:
    """Every point at which it may die, or three of the first so many."""
    if many:
        yield from ((number, after) for number in range(1, 1000) for after in (False, True))
    else:
        rng = random.Random(seed)
        yield from ((rng.randint(1, most), rng.random() < 0.5) for _ in range(3))


class Kept:
    """The state of a pair to which it is put back after each kill."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._kept = pair.root / "kept"
        for name in FOLDERS:
            if (pair.root / name).exists():
                shutil.copytree(pair.root / name, self._kept / name)

    def put_back(self) -> None:
        for name in FOLDERS:
            shutil.rmtree(self._pair.root / name, ignore_errors=True)
            if (self._kept / name).exists():
                shutil.copytree(self._kept / name, self._pair.root / name)


def kill_copies(pair: Pair, at: Iterator[tuple[int, bool]]) -> int:
    for seed in range(3):
        take(pair, seed)
    kept = Kept(pair)
    kills = 0
    for number, after in at:
        if not killed_at(number, pair, copying, after=after):
            break
        kills += 1
        there = on(pair, "copy1")
        # What is listed is whole, the newest first; what is not is copied by the next run.
        assert there in ([], [3], [2, 3], [1, 2, 3])
        assert_restores(pair, "copy1", {version: pair.expected[version] for version in there})
        copying(pair, lambda target: target)
        assert_restores(pair, "copy1", pair.expected)
        kept.put_back()
    return kills


def test_a_copy_that_is_killed_lists_nothing_that_is_not_whole_and_goes_on(pair: Pair) -> None:
    assert kill_copies(pair, points(many=False, seed=1, most=10)) == 3


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_no_crash_point_of_a_copy_lists_anything_that_is_not_whole(pair: Pair) -> None:
    assert kill_copies(pair, points(many=True, seed=1, most=0)) >= 20


def kill_renumbering(pair: Pair, at: Iterator[tuple[int, bool]]) -> int:
    earlier, later = rebuilt(pair)
    both = {1: pair.expected[1], 2: earlier, 3: later}
    kept = Kept(pair)
    kills = 0
    for number, after in at:
        if not killed_at(number, pair, copying, after=after):
            break
        kills += 1
        assert_some_version_is(pair, "disk", later)
        assert_some_version_is(pair, "copy1", earlier)
        copying(pair, lambda target: target)
        with pair.open() as installation:
            replicate(installation, "copy1", "disk", models=[MODEL])
        for target in ("disk", "copy1"):
            assert_restores(pair, target, both)
        kept.put_back()
    return kills


def assert_some_version_is(pair: Pair, target: str, manifest: Manifest) -> None:
    from backupd.operations.resolve import resolve
    from backupd.operations.restore import RestoreRequest, restore

    for version in on(pair, target):
        with scratch(pair.root / "restored") as out, pair.open() as installation:
            snapshot = resolve(installation, f"{MODEL}@v{version}", target=target)
            assert not restore(installation, snapshot, RestoreRequest(to=out)).failed
            if manifest_of(out) == manifest:
                return
    raise AssertionError(f"{target} has lost a snapshot")


def test_changing_a_number_is_finished_after_a_kill_and_loses_neither(pair: Pair) -> None:
    assert kill_renumbering(pair, points(many=False, seed=2, most=5)) == 3


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_no_crash_point_of_changing_a_number_loses_either(pair: Pair) -> None:
    assert kill_renumbering(pair, points(many=True, seed=2, most=0)) >= 8


# -- the daemon, killed by the clock ---------------------------------------------------------------


def configure(world: Pair) -> Path:
    path = world.root / "backupd.yaml"
    folder = world.root
    places = {"disk": folder / "repo", "copy1": folder / "copy1"}
    document = {
        "state_dir": str(folder / "state"),
        "host": HOST,
        "key": {"file": str(folder / "key")},
        "limits": {"upload": "3MB/s", "nice": 0, "io": "none"},
        "targets": {
            "disk": {"type": "local", "path": str(places["disk"])},
            "copy1": {"type": "nas", "path": str(places["copy1"]), "require_mount": False},
        },
        "policies": {"few": {"keep_last": 50}},
        "models": {
            MODEL: {
                "path": str(world.model_path),
                "schedule": "0 3 * * *",
                "targets": {"disk": "few", "copy1": "few"},
            }
        },
    }
    path.write_text(yaml.safe_dump(document))
    return path


def kill_daemons(pair: Pair, kills: int, seed: int) -> None:
    """Snapshots go on while the daemon, which copies them slowly, is killed again and again."""
    rng = random.Random(seed)
    base = [sys.executable, "-m", "backupd", "--config", str(configure(pair))]
    with (pair.root / "daemon.log").open("w") as log:
        for _ in range(kills):
            change_model(pair.model_path, rng)
            manifest = manifest_of(pair.model_path)
            daemon = subprocess.Popen([*base, "run"], stdout=log, stderr=log)
            asking = subprocess.Popen([*base, "snapshot"], stdout=log, stderr=log)
            time.sleep(rng.uniform(1.5, 3.5))
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()
            # It went through the daemon, or did it itself: then it is left to end.
            asking.wait()
            for version in set(on(pair, "disk")) - pair.expected.keys():
                pair.expected[version] = manifest
        daemon = subprocess.Popen([*base, "run"], stdout=log, stderr=log)
        try:
            end = time.monotonic() + 150
            while not (on(pair, "copy1") == on(pair, "disk") != []):
                assert time.monotonic() < end, "what is owed did not come"
                time.sleep(0.2)
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait()
    for version in set(on(pair, "disk")) - pair.expected.keys():
        pair.expected[version] = manifest_of(pair.model_path)
    assert pair.expected
    for target in ("disk", "copy1"):
        assert_restores(pair, target, pair.expected)


def test_a_daemon_killed_while_it_copies_goes_on_with_what_is_owed(pair: Pair) -> None:
    kill_daemons(pair, kills=2, seed=5)


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_a_daemon_killed_fifteen_times_brings_everything_everywhere(pair: Pair) -> None:
    kill_daemons(pair, kills=15, seed=6)
