"""A delta's base is where the delta is, and plain, however the two came there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from backupd.operations.forget import forget_snapshots
from backupd.operations.prune import prune
from backupd.operations.replicate import replicate
from tests.support.checkpoints import (
    assert_no_chains,
    deltas,
    held_bytes,
    records,
    trained,
    weights,
    write_safetensors,
)
from tests.support.world import MODEL, World, make_world, manifest_of, scratch

COUNT = 40_000
Z = weights(1, COUNT)
K = trained(Z, 2)
X = trained(K, 3)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with scratch(tmp_path / "world") as root:
        # One thread, so that what is stored together lies in one pack.
        made = make_world(root, copies=1, size=1000, keys_seed=1)
        yield made


def checkpoint(world: World, values: NDArray[np.float32], name: str = "model.safetensors") -> None:
    write_safetensors(world.model_path / "c" / name, {"layer.weight": values})


def forget(world: World, *versions: int) -> None:
    with world.open() as installation:
        forget_snapshots(installation, [f"{MODEL}@v{version}" for version in versions])
    for version in versions:
        del world.expected[version]


def clean(world: World, times: int = 3) -> None:
    with world.open() as installation:
        for _ in range(times):
            prune(installation, "disk", grace_seconds=0)


def test_a_base_outlives_the_snapshot_that_it_came_with(world: World) -> None:
    checkpoint(world, K)
    world.snapshot()
    checkpoint(world, X)
    world.snapshot()
    (delta,) = deltas(world)
    forget(world, 1)
    with world.open() as installation:
        report = prune(installation, "disk", grace_seconds=0)
        base = next(r for r in records(world) if r.blob_id == delta.base_id)
        assert report.held_bytes == base.sealed_size == held_bytes(world)
    clean(world)
    world.verify()
    assert world.findings() == []
    assert_no_chains(world)


def test_a_delta_whose_base_was_pruned_is_not_relied_upon(world: World) -> None:
    """Its pack stays, as most of it is needed, while that of its base goes."""
    checkpoint(world, K)
    world.snapshot()
    (world.model_path / "noise.bin").write_bytes(np.random.default_rng(4).bytes(2 << 20))
    checkpoint(world, X)
    world.snapshot()
    assert len(deltas(world)) == 1
    checkpoint(world, Z[::-1].copy())
    world.snapshot()
    forget(world, 1, 2)
    clean(world)
    (delta,) = deltas(world)
    assert delta.base_id not in {r.blob_id for r in records(world)}, "the test shows nothing"
    checkpoint(world, X)
    world.snapshot()
    world.verify()
    assert world.findings() == []
    assert_no_chains(world)
    clean(world)
    world.verify()
    assert_no_chains(world)


def test_a_base_that_the_other_target_has_as_a_delta_is_copied_plain(world: World) -> None:
    """The copy has K on Z; here K is plain, and X on it."""
    checkpoint(world, Z)
    world.snapshot()
    checkpoint(world, K)
    world.snapshot()
    with world.open() as installation:
        replicate(installation, "disk", "copy1")
    assert len(deltas(world, "copy1")) == 1
    forget(world, 1, 2)
    (world.model_path / "c" / "model.safetensors").unlink()
    world.snapshot()
    clean(world)
    assert not deltas(world)
    checkpoint(world, K)
    world.snapshot()
    checkpoint(world, X)
    world.snapshot()
    (delta,) = deltas(world)
    with world.open() as installation:
        results = replicate(installation, "disk", "copy1")
        assert not [result.error for result in results if result.error]
    assert world.findings("copy1") == []
    assert_no_chains(world, "copy1")
    with world.open() as installation:
        for _ in range(3):
            prune(installation, "copy1", grace_seconds=0)
    assert world.findings("copy1") == []
    assert_no_chains(world, "copy1")
    assert delta.blob_id in {r.blob_id for r in deltas(world, "copy1")}


def test_a_base_that_was_lost_and_stored_again_is_stored_plain_or_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K's pack is lost; K comes again and could be a difference from X, which stands on K."""
    checkpoint(world, K)
    world.snapshot()
    checkpoint(world, X)
    world.snapshot()
    (delta,) = deltas(world)
    with world.open() as installation:
        repository = installation.repository("disk")
        index = repository.load_index(lambda message: None)
        location = index.find(delta.base_id)
        assert location is not None
        (world.root / "repo" / "packs").joinpath(
            location.pack_id.hex()[:2], location.pack_id.hex()
        ).unlink()
    checkpoint(world, K, "again.safetensors")
    monkeypatch.setattr("backupd.operations.bases._WAIT_SECONDS", 4.0)  # sixty times of it
    began = time.monotonic()
    world.snapshot()
    assert time.monotonic() - began < 120, "a chunk waited for itself"
    for path in (world.root / "repo" / "index").iterdir():
        path.unlink()  # as it names the lost pack
    with scratch(world.root / "out") as out:
        assert not world.restore(world.highest, out).failed
        assert manifest_of(out) == world.expected[world.highest]
