"""Random damage on every kind of target: check names it, repair mends it, or it is named as lost.

The short form does a few places of each kind; `pytest -m endurance` does forty.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.config.settings import LocalTarget, NasTarget, S3Target, TargetSettings
from backupd.errors import DamagedError, WrongKeyError
from backupd.operations.check import check
from backupd.operations.repair import repair
from backupd.operations.reports import RepairReport
from backupd.repository.copying import copy_packs
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
from tests.targets.conftest import mounted_tmpfs, s3_settings

pytestmark = pytest.mark.usefixtures("small_packs")

SEED = int(os.environ.get("BACKUPD_DAMAGE_SEED", "7"))
HOW = ("flipped", "truncated", "deleted")


@pytest.fixture(params=["local", "nas", "s3"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Three versions on a target of each kind, and the very same objects on a local one."""
    kind = request.param
    if kind == "nas":
        with mounted_tmpfs(tmp_path / "mount") as mount:
            yield twins(tmp_path, NasTarget("disk", mount / "models"))
        return
    settings: TargetSettings = LocalTarget("disk", tmp_path / "repo")
    if kind == "s3":
        server = request.getfixturevalue("s3_server")
        bucket = server.create_bucket()
        settings = s3_settings(server, tmp_path, bucket, prefix="damage")
        settings = type(settings)(
            "disk",
            bucket,
            prefix="damage",
            endpoint_url=settings.endpoint_url,
            credentials_file=settings.credentials_file,
            path_style=True,
        )
    yield twins(tmp_path, settings)


def twins(root: Path, settings: TargetSettings) -> World:
    world = make_world(root, size=1 << 17, copies=1, disk=settings, keys_seed=SEED)
    rng = random.Random(SEED)
    for _ in range(3):
        world.snapshot()
        change_model(world.model_path, rng)
    own = (root / "copy1" / "repository.json").read_bytes()
    shutil.rmtree(root / "copy1")
    (root / "copy1").mkdir()
    for name, stored in objects(world).items():
        path = root / "copy1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stored)
    (root / "copy1" / "repository.json").write_bytes(own)
    return world


def objects(world: World) -> dict[str, bytes]:
    with world.open() as installation:
        target = installation.target("disk")
        return {info.name: target.get(info.name, 1 << 30) for info in target.list("")}


def damage(world: World, name: str, stored: bytes, how: str, rng: random.Random) -> None:
    print(name, how)
    with world.open() as installation:
        target = installation.target("disk")
        if how == "deleted":
            target.delete(name)
        elif how == "truncated":
            target.put(name, [stored[: rng.randrange(len(stored))]])
        else:
            bit = rng.randrange(len(stored) * 8)
            spoilt = bytearray(stored)
            spoilt[bit // 8] ^= 1 << bit % 8
            target.put(name, [bytes(spoilt)])


def named_by_check(world: World) -> set[str]:
    """Every object that check names, be it as the reason why it cannot even begin."""
    try:
        with world.open() as installation:
            report = check(installation, "disk", read_data_percent=100)
    except (DamagedError, WrongKeyError) as error:
        return {word.strip(";,()") for word in error.message.split()}
    return {finding.object_name for finding in report.findings}


def mend(world: World, sources: tuple[str, ...] | None = None) -> RepairReport:
    with world.open() as installation:
        return repair(installation, "disk", sources=sources)


def places(sound: dict[str, bytes], rng: random.Random, count: int) -> Iterator[tuple[str, str]]:
    """Objects and what is done to them: packs mostly, as they are most of what is stored."""
    by_kind: dict[str, list[str]] = {}
    for name in sorted(sound):
        by_kind.setdefault(name.partition("/")[0], []).append(name)
    for number in range(count):
        kind = rng.choice(["packs", "packs", "packs", "snapshots", "index", "keys"])
        how = HOW[number % len(HOW)]
        # Of these only another target knows that they were there; `sync` brings them.
        if how == "deleted" and kind in ("snapshots", "keys"):
            kind = "packs"
        yield rng.choice(by_kind[kind]), how


def mend_one_after_another(world: World, count: int) -> None:
    rng = random.Random(SEED)
    sound = objects(world)
    for name, how in places(sound, rng, count):
        if name not in sound:  # an index object, and by now another stands in its place
            name = next(other for other in sorted(sound) if other.startswith("index/"))
        damage(world, name, sound[name], how, rng)
        named = named_by_check(world)
        # A lost index object is noticed by the packs that no other names.
        assert name in named or (name.startswith("index/") and "index/" in named), named
        mended = mend(world)
        assert not mended.lost, mended.lost
        now = objects(world)
        if name.startswith("index/"):
            # Written anew from the packs, under the name that its new bytes have.
            sound = {n: s for n, s in sound.items() if not n.startswith("index/")}
            sound |= {n: s for n, s in now.items() if n.startswith("index/")}
        assert now == sound, "what the other target has comes back with its very bytes"
    assert not world.findings()
    world.verify()


def test_damage_is_named_and_mended_with_the_same_bytes(world: World) -> None:
    # Each place costs some hundred requests.
    mend_one_after_another(world, 2 if isinstance(world.targets["disk"], S3Target) else 4)


@pytest.mark.endurance
@pytest.mark.timeout(1800)
def test_damage_in_forty_places_is_named_and_mended_with_the_same_bytes(world: World) -> None:
    mend_one_after_another(world, 40)


def mend_alone(world: World, count: int) -> None:
    """All at once, and nobody to ask but the folder that the snapshots were taken of."""
    world.snapshot()
    rng = random.Random(SEED + 1)
    sound = objects(world)
    chosen = dict(places(sound, rng, count))
    for name, how in chosen.items():
        damage(world, name, sound[name], how, rng)
    mended = mend(world, ())
    lost = {
        (snapshot, path)
        for finding in mended.lost
        for snapshot in finding.snapshots
        for path in finding.files
    }
    gone = {name for finding in mended.lost for name in finding.snapshots if "of a model" in name}
    for version, manifest in world.expected.items():
        if f"version {version} of a model" in gone:
            continue
        with scratch(world.root / "restored") as out:
            report = world.restore(version, out)
            for path in report.failed:
                shown = "(the list of files)" if path.startswith("(part") else path
                link = path == "weights.link" and (f"{MODEL}@v{version}", "weights.bin") in lost
                assert link or (f"{MODEL}@v{version}", shown) in lost, (version, path)
            given = manifest_of(out)
            if not report.failed:
                assert given == manifest
            for path in given.keys() & manifest.keys():
                assert given[path][:3] == manifest[path][:3]
    newest = max(world.expected)
    if f"version {newest} of a model" not in gone:
        hurt = {path for snapshot, path in lost if snapshot == f"{MODEL}@v{newest}"}
        assert not hurt, "all of the newest is in the folder that it was taken of"


def test_a_single_target_is_mended_from_the_live_folder_and_names_the_rest(world: World) -> None:
    mend_alone(world, 4)


@pytest.mark.endurance
@pytest.mark.timeout(900)
def test_a_single_target_with_forty_damages_names_what_it_cannot_mend(world: World) -> None:
    mend_alone(world, 40)


def kill_and_go_on(world: World, step: int) -> None:
    """A repair that dies at any operation is finished by the next."""
    rng = random.Random(SEED)
    sound = objects(world)
    # The other target has half of the blobs in packs of other names, so that all kinds of work are
    # done.
    with world.open() as installation:
        other = installation.repository("copy1")
        packs = sorted(path for path in (world.root / "copy1" / "packs").rglob("*/*"))[::2]
        copy_packs(other, {bytes.fromhex(path.name) for path in packs})
    for path in packs:
        path.unlink()
    number = 1
    while True:
        for name, how in places(sound, rng, 6):
            if name in objects(world):
                damage(world, name, objects(world)[name], how, rng)

        def work(world: World, wrap) -> None:  # type: ignore[no-untyped-def]
            with world.open(wrap) as installation:
                repair(installation, "disk")

        died = killed_at(number, world, work, after=bool(number % 2))
        mended = mend(world)
        assert not mended.lost, mended.lost
        world.verify()
        assert not world.findings()
        if not died and number > 3:
            return
        number += step


def test_a_killed_repair_is_finished_by_the_next(tmp_path: Path) -> None:
    kill_and_go_on(twins(tmp_path, LocalTarget("disk", tmp_path / "repo")), 4)


@pytest.mark.endurance
@pytest.mark.timeout(900)
def test_a_repair_killed_at_every_operation_is_finished_by_the_next(tmp_path: Path) -> None:
    kill_and_go_on(twins(tmp_path, LocalTarget("disk", tmp_path / "repo")), 1)
