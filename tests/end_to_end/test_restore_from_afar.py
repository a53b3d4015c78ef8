"""Restoring from a far target: reads are planned, and what is given is the same to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from backupd.operations import restoring
from backupd.operations.installation import Installation
from backupd.targets.base import Target
from backupd.targets.wrapping import WrappedTarget
from tests.support.checkpoints import deltas, trained, weights, write_safetensors
from tests.support.world import World, make_world, manifest_of, scratch


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with scratch(tmp_path / "world") as root:
        made = make_world(root, size=1 << 20)
        layers = {f"layer.{number}": weights(number, 60_000) for number in range(8)}
        for step in range(5):
            later = {name: trained(values, step) for name, values in layers.items()}
            place = made.model_path / f"checkpoint-{step}" / "model.safetensors"
            write_safetensors(place, later)
            made.snapshot()
        yield made


class Reads(WrappedTarget):
    """Counts reads of packs."""

    count = 0

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        Reads.count += name.startswith("packs/")
        self._target.read_into(name, offset, buffer)


def reads_of_a_restore(world: World, to: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    def counted(
        installation: Installation, name: str, given: object = Installation.target
    ) -> Target:
        return Reads(given(installation, name))  # type: ignore[operator]

    version = max(world.expected)
    with monkeypatch.context() as patch:
        patch.setattr(Installation, "target", counted)
        Reads.count = 0
        world.restore(version, to)
    assert manifest_of(to) == world.expected[version]
    return Reads.count


def test_planned_reads_give_the_same_and_are_no_more(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deltas(world), "the checkpoints must stand on one another"
    # The chunks of this small world are below what is worth a read of its own.
    monkeypatch.setattr(restoring, "families", partial(restoring.families, least=0))
    near = reads_of_a_restore(world, tmp_path / "near", monkeypatch)
    monkeypatch.setattr(Installation, "reads_ahead", lambda *_: 4)
    far = reads_of_a_restore(world, tmp_path / "far", monkeypatch)
    assert far <= near


def test_a_damaged_run_costs_only_what_is_damaged(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Installation, "reads_ahead", lambda *_: 4)
    packs = sorted(
        (world.root / "repo" / "packs").rglob("*/*"), key=lambda path: path.stat().st_size
    )
    data = bytearray(packs[-1].read_bytes())
    data[len(data) // 3] ^= 1
    packs[-1].chmod(0o600)
    packs[-1].write_bytes(data)
    packs[-2].chmod(0o600)
    packs[-2].write_bytes(packs[-2].read_bytes()[: packs[-2].stat().st_size // 2])
    version = max(world.expected)
    near = world.restore(version, tmp_path / "again")
    monkeypatch.setattr(Installation, "reads_ahead", lambda *_: 0)
    other = world.restore(version, tmp_path / "near")
    assert set(near.failed) == set(other.failed)
    assert near.failed
