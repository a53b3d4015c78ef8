"""A world with two targets of which one thins what it gets, and a box that is built anew."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from dataclasses import replace

from backupd.config.settings import ModelSettings, Settings
from backupd.operations.catalog import list_snapshots
from backupd.operations.resolve import resolve
from backupd.operations.restore import RestoreRequest, restore
from backupd.operations.snapshot import take_snapshot
from backupd.policy.retention import Rules
from tests.support.world import MODEL, Manifest, World, change_model, manifest_of, scratch


class Pair(World):
    """A world whose model goes to `disk` and, thinned to a few, to `copy1`."""

    @property
    def settings(self) -> Settings:
        model = ModelSettings(MODEL, self.model_path, {"disk": (), "copy1": ("few",)})
        plain = World.settings.fget(self)  # type: ignore[attr-defined]
        few = {"few": Rules("few", keep_last=3, keep_labels=("keep",))}
        changed: Settings = replace(plain, models={MODEL: model}, policies=few)
        return changed


def take(pair: Pair, seed: int, *, copy: bool = False) -> None:
    change_model(pair.model_path, random.Random(seed))
    manifest = manifest_of(pair.model_path)
    with pair.open() as installation:
        report = take_snapshot(installation, pair.settings.models[MODEL], copy=copy)
    assert report.snapshot is not None
    assert not report.unchanged
    pair.expected[report.snapshot.version] = manifest


def on(pair: Pair, target: str) -> list[int]:
    with pair.open() as installation:
        found = list_snapshots(installation, model=MODEL, targets=[target])
    return sorted(info.version for info in found)


def assert_restores(pair: Pair, target: str, expected: Mapping[int, Manifest]) -> None:
    """Each version restores from this target alone, bit by bit."""
    assert on(pair, target) == sorted(expected)
    for version, manifest in expected.items():
        with scratch(pair.root / "restored") as out, pair.open() as installation:
            snapshot = resolve(installation, f"{MODEL}@v{version}", target=target)
            assert not restore(installation, snapshot, RestoreRequest(to=out)).failed
            assert manifest_of(out) == manifest
    assert pair.findings(target) == []


def rebuilt(pair: Pair) -> tuple[Manifest, Manifest]:
    """v2 on both sides, each another: copy1 was away, and the box was made anew from an old disk.

    The manifests of the earlier, which copy1 holds, and of the later.
    """
    take(pair, 1, copy=True)
    shutil.copytree(pair.root / "repo", pair.root / "stale")
    take(pair, 2, copy=True)
    earlier = pair.expected[2]
    shutil.rmtree(pair.root / "repo")
    shutil.rmtree(pair.root / "state", ignore_errors=True)
    (pair.root / "stale").rename(pair.root / "repo")
    (pair.root / "copy1").rename(pair.root / "away")
    change_model(pair.model_path, random.Random(3))
    later = manifest_of(pair.model_path)
    with pair.open() as installation:
        report = take_snapshot(installation, pair.settings.models[MODEL], labels={"keep": "x"})
    assert report.snapshot is not None
    assert report.snapshot.version == 2
    (pair.root / "away").rename(pair.root / "copy1")
    return earlier, later
