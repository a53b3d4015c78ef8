"""Every kind of object deleted, cut short or with a bit flipped: found, named, and never believed.

What check calls clean restores whole; what a restore gives is right to the byte, and what it
cannot give is named, also by check. Nothing but `BackupdError` is ever raised.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backupd.errors import EXIT_DAMAGED, EXIT_KEY, EXIT_TARGET, BackupdError
from backupd.operations.catalog import set_labels
from backupd.operations.check import check
from backupd.operations.forget import forget_snapshots
from backupd.operations.progress import NoProgress
from backupd.operations.prune import prune
from backupd.operations.reports import Finding
from backupd.operations.resolve import resolve
from backupd.operations.restore import RestoreRequest, restore
from tests.support.world import (
    MODEL,
    Manifest,
    World,
    change_model,
    make_world,
    manifest_of,
    scratch,
)

KINDS = ("repository.json", "keys", "packs", "index", "snapshots", "amendments", "tombstones")
PLACES = 40
# Which blobs share a pack, and which have copies, depends on keys: another seed, another layout.
SEED = int(os.environ.get("BACKUPD_DAMAGE_SEED", "7"))
LINKS = {"weights.link"}  # check names the file that has the content


@pytest.fixture(scope="module")
def base() -> Iterator[World]:
    """Two versions, one with labels given later, a third forgotten whose packs are marked."""
    patch = pytest.MonkeyPatch()
    patch.setattr("backupd.repository.pack.PACK_TARGET_SIZE", 128 * 1024)
    patch.setattr("backupd.repository.writer._FLUSH_PACKS", 3)
    patch.setattr("backupd.repository.prune_plan.SMALL_PACK", 16 * 1024)
    with scratch(Path("/dev/shm") / f"backupd-damage-{os.getpid()}") as root:
        world = make_world(root, size=1 << 18, keys_seed=SEED)
        rng = random.Random(SEED)
        for _ in range(3):
            world.snapshot()
            change_model(world.model_path, rng)
        with world.open() as installation:
            set_labels(installation, resolve(installation, f"{MODEL}@v2"), {"release": "yes"})
            forget_snapshots(installation, [f"{MODEL}@v1"])
            prune(installation, "disk", grace_seconds=0)
        del world.expected[1]
        shutil.copytree(root / "repo", root / "sound")
        yield world
    patch.undo()


@pytest.fixture
def world(base: World) -> Iterator[World]:
    """The base; what a test does to the repository is undone."""
    yield base
    shutil.rmtree(base.root / "repo")
    shutil.copytree(base.root / "sound", base.root / "repo")


def objects_of(world: World, kind: str) -> list[Path]:
    repo = world.root / "repo"
    if kind == "repository.json":
        return [repo / kind]
    if kind == "amendments":
        return sorted(repo.glob("snapshots/*/*+*"))
    if kind == "snapshots":
        return [path for path in sorted(repo.glob("snapshots/*/*")) if path.name.isdigit()]
    return sorted(path for path in (repo / kind).rglob("*") if path.is_file())


@dataclass(slots=True)
class Outcome:
    """What became of a damaged repository in the hands of check and restore."""

    findings: list[Finding] = field(default_factory=list)
    refused: BackupdError | None = None
    failed: dict[int, set[str]] = field(default_factory=dict)
    raised: dict[int, BackupdError] = field(default_factory=dict)

    @property
    def found(self) -> bool:
        return self.refused is not None or bool(self.findings)

    @property
    def hurts(self) -> bool:
        return bool(self.refused or self.raised or any(self.failed.values()))


def examine(world: World) -> Outcome:
    """Check and restore everything; whatever comes must be true."""
    outcome = Outcome()
    try:
        with world.open() as installation:
            outcome.findings = list(check(installation, "disk", read_data_percent=100).findings)
    except BackupdError as error:
        assert error.exit_code in (EXIT_DAMAGED, EXIT_KEY, EXIT_TARGET), error
        outcome.refused = error
    for version, manifest in world.expected.items():
        with scratch(world.root / "restored") as out:
            try:
                report = world.restore(version, out)
            except BackupdError as error:
                outcome.raised[version] = error
                assert not out.exists() or manifest_of(out) == {}
                continue
            outcome.failed[version] = set(report.failed)
            compare(manifest, manifest_of(out), set(report.failed))
    return outcome


def compare(wanted: Manifest, given: Manifest, failed: set[str]) -> None:
    """All that was not named as failed is there and right, and nothing else is there."""
    assert given.keys() <= wanted.keys()
    parts = any(name.startswith("(part ") for name in failed)
    for path, what in wanted.items():
        if path in failed:
            assert path not in given, f"{path} is said to have failed and is there"
        elif parts and path not in given:
            continue  # it stood in a part of the list that is named as lost
        elif what[-1] in failed:
            continue  # a hard link to a file that could not be given
        else:
            assert given.get(path, ())[:3] == what[:3], f"{path} is not what was stored"


def damage(path: Path, how: str, rng: random.Random) -> str:
    """Do it; what was done, for the one who reads a failure."""
    if how == "deleted":
        path.unlink()
        return f"{path} deleted"
    stored = bytearray(path.read_bytes())
    if how == "truncated":
        size = rng.randrange(len(stored))
        path.write_bytes(stored[:size])
        return f"{path} cut at {size} of {len(stored)}"
    bit = rng.randrange(len(stored) * 8)
    stored[bit // 8] ^= 1 << bit % 8
    path.write_bytes(stored)
    return f"{path} bit {bit} of {len(stored) * 8} flipped"


def mend(world: World, path: Path) -> None:
    sound = world.root / "sound" / path.relative_to(world.root / "repo")
    path.write_bytes(sound.read_bytes())


def places(world: World, kind: str, how: str, count: int) -> Iterator[Path]:
    """Damage one object of the kind at a time, `count` times; mended in between."""
    rng = random.Random(f"{kind} {how} {SEED}")
    objects = objects_of(world, kind)
    for _ in range(count):
        path = rng.choice(objects)
        print(damage(path, how, rng))
        try:
            yield path
        finally:
            mend(world, path)


def run(world: World, kind: str, how: str, count: int) -> None:
    for path in places(world, kind, how, count):
        outcome = examine(world)
        name = str(path.relative_to(world.root / "repo"))
        if how == "deleted" and kind in ("keys", "snapshots", "amendments", "tombstones"):
            # Nothing says that there was one, as after forget, key remove or a finished prune:
            # what is left must be whole, or refuse whoever lacks it.
            lost = outcome.refused is not None or kind == "snapshots"
            assert lost or not outcome.hurts
            continue
        assert outcome.found, f"check does not find it: {name}"
        if outcome.refused is None:
            assert_blamed(outcome, kind, name)


def assert_blamed(outcome: Outcome, kind: str, name: str) -> None:
    """Check named the object, and whatever a restore could not give."""
    if kind == "index":
        assert not outcome.hurts, "a damaged index costs nothing but time"
        assert all(finding.harmless for finding in outcome.findings)
        return
    assert any(finding.object_name == name for finding in outcome.findings), outcome.findings
    named = {
        (snapshot, path)
        for finding in outcome.findings
        for snapshot in finding.snapshots
        for path in finding.files
    }
    assert not outcome.hurts or not all(finding.harmless for finding in outcome.findings)
    if kind == "snapshots":
        for error in outcome.raised.values():
            assert error.exit_code == EXIT_DAMAGED, error
        return
    assert not outcome.raised, "a restore gives what is not hurt"
    if kind == "packs":
        for version, failed in outcome.failed.items():
            for path in failed - LINKS:
                shown = "(the list of files)" if path.startswith("(part") else path
                assert (f"{MODEL}@v{version}", shown) in named, (version, path, outcome.findings)


@pytest.mark.parametrize("how", ["deleted", "truncated", "flipped"])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_and_never_restored(world: World, kind: str, how: str) -> None:
    run(world, kind, how, 4)


@pytest.mark.torture
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["deleted", "truncated", "flipped"])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_in_forty_places_is_found_and_never_restored(
    world: World, kind: str, how: str
) -> None:
    run(world, kind, how, PLACES)


def test_the_newest_version_is_not_replaced_by_an_older_one_without_a_word(world: World) -> None:
    newest = objects_of(world, "snapshots")[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    with world.open() as installation, pytest.raises(BackupdError) as refused:
        resolve(installation, f"{MODEL}@latest")
    assert refused.value.exit_code == EXIT_DAMAGED
    assert f"{MODEL}@v3" in refused.value.message


def test_a_missing_index_is_made_good_from_the_packs_and_said(world: World) -> None:
    for path in objects_of(world, "index"):
        path.unlink()
    notes: list[str] = []

    class Notes(NoProgress):
        def note(self, message: str) -> None:
            notes.append(message)

    with world.open() as installation, scratch(world.root / "restored") as out:
        snapshot = resolve(installation, f"{MODEL}@v3")
        report = restore(installation, snapshot, RestoreRequest(to=out), progress=Notes())
        assert not report.failed
        assert manifest_of(out) == world.expected[3]
    assert any("read from the packs" in note for note in notes), notes
