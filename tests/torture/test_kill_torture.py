"""`kill -9` at every point of every verb: nothing that is listed is ever lost or wrong.

Two walks. The sweep begins each time from the same state and dies at the first, second, third...
operation on the target, before it and after it, until the verb gets through: every crash point
there is. The random walk never goes back: it lives on with whatever the last crash left.
"""

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

from backupd.operations.catalog import set_labels
from backupd.operations.forget import forget_snapshots
from backupd.operations.prune import prune
from backupd.operations.replicate import replicate
from backupd.operations.resolve import resolve
from backupd.operations.restore import RestoreRequest, restore
from backupd.operations.snapshot import take_snapshot
from backupd.targets.base import Target
from tests.support.checkpoints import add_checkpoint, assert_no_chains, deltas, train
from tests.support.killing import killed_at
from tests.support.world import (
    MODEL,
    World,
    change_model,
    make_world,
    manifest_of,
    scratch,
)
from tests.support.world import small_packs as small_packs

pytestmark = pytest.mark.usefixtures("small_packs")

Wrap = Callable[[Target], Target]
Work = Callable[[World, Wrap], None]
VERBS = ("snapshot", "label", "forget", "prune", "replicate", "restore")


def work_of(verb: str, version: int) -> Work:
    """The verb as it is called by the command line and the daemon."""

    def work(world: World, wrap: Wrap) -> None:
        with world.open(wrap) as installation:
            if verb == "snapshot":
                take_snapshot(installation, world.settings.models[MODEL])
            elif verb == "label":
                snapshot = resolve(installation, f"{MODEL}@v{version}")
                set_labels(installation, snapshot, {"kept": "yes"})
            elif verb == "forget":
                forget_snapshots(installation, [f"{MODEL}@v{version}"])
            elif verb == "prune":
                prune(installation, "disk", grace_seconds=0)
            elif verb == "replicate":
                replicate(installation, "disk", "copy1")
            else:
                snapshot = resolve(installation, f"{MODEL}@v{version}")
                request = RestoreRequest(to=world.root / "cut-short", overwrite=True)
                restore(installation, snapshot, request)

    return work


def settle(world: World, verb: str, version: int, manifest: dict[str, tuple[object, ...]]) -> None:
    """Take in what a verb that was cut short may have done, and nothing else."""
    listed = set(world.listed())
    new = listed - world.expected.keys()
    gone = world.expected.keys() - listed
    if verb == "snapshot" and new:
        (number,) = new
        assert number > world.highest, "a version number was used twice"
        world.highest = number
        world.expected[number] = manifest
    else:
        assert not new, "a snapshot that was forgotten is listed again"
    if verb == "forget":
        assert gone <= {version}
        world.expected.pop(version, None) if gone else None
    else:
        assert not gone, f"{verb} lost {gone}"


def attest(world: World, verb: str, version: int) -> None:
    """All that is promised after a crash."""
    world.verify()
    assert_no_chains(world)
    assert world.findings() == []
    if verb == "restore" and (world.root / "cut-short").exists():
        world.restore(version, world.root / "cut-short", overwrite=True)
        assert manifest_of(world.root / "cut-short") == world.expected[version]
        shutil.rmtree(world.root / "cut-short")
    if verb == "replicate":
        with world.open() as installation:
            replicate(installation, "disk", "copy1")
        assert world.findings("copy1") == []
        shutil.rmtree(world.root / "copy1" / "snapshots", ignore_errors=True)


def end_without_orphans(world: World) -> None:
    """Forget all but the newest, prune twice: what is left is needed, and restores."""
    specs = [f"{MODEL}@v{version}" for version in sorted(world.expected)[:-1]]
    with world.open() as installation:
        forget_snapshots(installation, specs)
        for version in sorted(world.expected)[:-1]:
            del world.expected[version]
        for _ in range(2):
            prune(installation, "disk", grace_seconds=0)
    assert world.orphans() == []
    world.verify()
    assert world.findings() == []


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Packs of v1 are marked, v2 is forgotten too, v3 and v4 stand, and the model has changed."""
    with scratch(Path("/dev/shm") / f"backupd-kill-{os.getpid()}") as root:
        made = make_world(root, copies=1, size=1 << 19)
        add_checkpoint(made.model_path)
        rng = random.Random(5)
        for version in range(1, 5):
            made.snapshot()
            train(made.model_path, version)
            for _ in range(version):
                change_model(made.model_path, rng)
        assert deltas(made), "the kills are to be over deltas too"
        for version in (1, 2):
            with made.open() as installation:
                forget_snapshots(installation, [f"{MODEL}@v{version}"])
                if version == 1:
                    prune(installation, "disk", grace_seconds=0)
            del made.expected[version]
        yield made


def sweep(world: World, verb: str, points: Iterator[tuple[int, bool]] | None = None) -> int:
    """Kill `verb` at each point (all when None) of the same state; how many kills there were."""
    version = min(world.expected)
    kept = world.root.with_name(world.root.name + "-kept")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(world.root, kept, symlinks=True)
    # copytree keeps no hard links; the model itself is never changed by a verb.
    shutil.rmtree(kept / "model")
    expected, highest = dict(world.expected), world.highest
    kills = 0
    all_points = ((n, after) for n in range(1, 1000) for after in (False, True))
    try:
        for number, after in points or all_points:
            manifest = manifest_of(world.model_path)
            reads = verb == "restore"
            if not killed_at(number, world, work_of(verb, version), after=after, reads=reads):
                if points is None:
                    break
                continue
            kills += 1
            settle(world, verb, version, manifest)
            attest(world, verb, version)
            world.snapshot()
            world.verify()
            end_without_orphans(world)
            for name in ("repo", "state", "copy1"):
                shutil.rmtree(world.root / name, ignore_errors=True)
                shutil.copytree(kept / name, world.root / name)
            world.expected, world.highest = dict(expected), highest
    finally:
        shutil.rmtree(kept, ignore_errors=True)
    return kills


@pytest.mark.torture
@pytest.mark.timeout(600)
@pytest.mark.parametrize("verb", VERBS)
def test_no_crash_point_of_a_verb_loses_anything(world: World, verb: str) -> None:
    kills = sweep(world, verb)
    print(f"{verb}: {kills} kills")
    assert kills >= {"forget": 4, "label": 2, "prune": 6}.get(verb, 8)


@pytest.mark.parametrize("verb", ["snapshot", "forget", "prune", "restore"])
def test_a_verb_that_is_killed_loses_nothing(world: World, verb: str) -> None:
    rng = random.Random(verb)
    ends = {"snapshot": 6, "forget": 2, "prune": 8, "restore": 8}
    points = [(rng.randint(1, ends[verb]), rng.random() < 0.5) for _ in range(2)]
    assert sweep(world, verb, iter(points)) == len(points)


@pytest.mark.torture
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [11, 12])
def test_a_repository_lives_on_through_sixty_kills(world: World, seed: int) -> None:
    rng = random.Random(seed)
    kills = 0
    while kills < 60:
        verb = rng.choice(("snapshot", "snapshot", "forget", "prune", "prune", "restore", "label"))
        if verb == "forget" and len(world.expected) < 3:
            verb = "snapshot"
        version = rng.choice(sorted(world.expected))
        if verb == "snapshot" and rng.random() < 0.7:
            change_model(world.model_path, rng)
            train(world.model_path, rng.randrange(1, 9))
        manifest = manifest_of(world.model_path)
        number = rng.randint(1, {"forget": 4, "label": 1}.get(verb, 20))
        died = killed_at(
            number,
            world,
            work_of(verb, version),
            after=rng.random() < 0.5,
            reads=verb == "restore",
        )
        kills += died
        settle(world, verb, version, manifest)
        attest(world, verb, version)
        if kills % 10 == 0:
            world.snapshot()
    world.snapshot(labels={"end": "yes"})
    end_without_orphans(world)


# -- the command line, killed by the clock ------------------------------------------------------


def write_config(world: World) -> Path:
    path = world.root / "backupd.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "state_dir": str(world.root / "state"),
                "key": {"file": str(world.root / "key")},
                "host": "box",
                "targets": {"disk": {"type": "local", "path": str(world.root / "repo")}},
                "policies": {"few": {"keep_last": 3}},
                "models": {
                    MODEL: {
                        "path": str(world.model_path),
                        "schedule": "0 3 * * *",
                        "targets": {"disk": "few"},
                    }
                },
            }
        )
    )
    return path


def run_and_kill(command: list[str], seconds: float) -> bool:
    """Whether the command was still running after so long, and was killed."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    assert b"Traceback" not in said, said.decode()
    assert process.returncode == 0, said.decode()
    return False


def walk_by_clock(world: World, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    config = str(write_config(world))
    base = [sys.executable, "-m", "backupd", "--config", config, "--no-progress"]
    took = {"snapshot": 1.0, "forget": 0.5, "prune": 0.6, "restore": 0.6}
    done = 0
    while done < kills:
        verb = rng.choice(("snapshot", "snapshot", "forget", "prune", "restore"))
        if verb == "forget" and len(world.expected) < 4:
            verb = "snapshot"
        # What `forget` drops when it is not told: all but the newest three.
        version = min(world.expected) if verb == "forget" else rng.choice(sorted(world.expected))
        if verb == "snapshot":
            change_model(world.model_path, rng)
            train(world.model_path, rng.randrange(1, 9))
        manifest = manifest_of(world.model_path)
        command = {
            "snapshot": [*base, "snapshot", MODEL],
            "forget": [*base, "forget", f"{MODEL}@v{version}"],
            "prune": [*base, "prune"],
            "restore": [
                *base,
                *("restore", f"{MODEL}@v{version}", "--overwrite"),
                *("--to", str(world.root / "cut-short")),
            ],
        }[verb]
        began = time.monotonic()
        if run_and_kill(command, rng.uniform(0.25, 1.0) * took[verb]):
            done += 1
        else:
            # It was quicker than was thought: what matters is its last half.
            took[verb] = 0.9 * (time.monotonic() - began)
        settle(world, verb, version, manifest)
        attest(world, verb, version)
    world.snapshot(labels={"end": "yes"})
    end_without_orphans(world)


def test_commands_killed_by_the_clock_lose_nothing(world: World) -> None:
    walk_by_clock(world, kills=4, seed=3)


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_forty_commands_killed_by_the_clock_lose_nothing(world: World) -> None:
    walk_by_clock(world, kills=40, seed=4)
