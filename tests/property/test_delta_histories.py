"""Training runs that are captured, renamed, overwritten, forgotten and pruned in any order.

Whatever the history, each listed snapshot gives back its bytes from each target, and no delta
stands on one.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, example, given, settings

from backupd.codec.blob import Codec
from backupd.operations.catalog import list_snapshots
from backupd.operations.forget import forget_snapshots
from backupd.operations.prune import prune
from backupd.operations.replicate import replicate
from backupd.operations.resolve import resolve
from backupd.operations.restore import RestoreRequest, restore
from backupd.operations.snapshot import take_snapshot
from tests.support.checkpoints import (
    assert_no_chains,
    bfloat16,
    held_bytes,
    records,
    trained,
    weights,
    write_safetensors,
)
from tests.support.world import MODEL, World, make_world, manifest_of, scratch

GRACE = 1000.0
ACTIONS = ("capture", "step", "replace", "rename", "delete", "noise", "forget", "prune", "copy")
ORIGIN = weights(7, 50_000)


class History:
    """One run: steps of training are known by number, and may be captured in any order."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self.codecs: Counter[int] = Counter()
        for path in sorted(world.model_path.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        self.manifests: dict[int, object] = {}

    def checkpoints(self) -> list[Path]:
        return sorted(self.world.model_path.glob("checkpoint-*"))

    def do(self, action: str) -> None:
        getattr(self, action)()

    def write(self, folder: Path) -> None:
        number = self.rng.randrange(1, 12)
        values = ORIGIN if number == 1 else trained(ORIGIN, number)
        tensors = {
            "layer.0.weight": values,
            "layer.1.weight": bfloat16(values[::-1].copy()),
            "step": np.array(number, np.int64),
        }
        write_safetensors(folder / "model.safetensors", tensors)
        write_safetensors(folder / "optimizer.safetensors", {"exp_avg_sq": np.square(values)})

    def step(self) -> None:
        self.write(self.world.model_path / f"checkpoint-{self.rng.randrange(1, 6)}")

    def replace(self) -> None:
        for folder in self.checkpoints()[:1]:
            self.write(folder)

    def rename(self) -> None:
        for folder in self.checkpoints()[-1:]:
            folder.rename(folder.with_name(f"checkpoint-{self.rng.randrange(1, 99_999)}-renamed"))

    def delete(self) -> None:
        found = self.checkpoints()
        if found:
            shutil.rmtree(self.rng.choice(found))

    def noise(self) -> None:
        size = self.rng.randrange(1, 400_000)
        (self.world.model_path / "noise.bin").write_bytes(self.rng.randbytes(size))

    def capture(self) -> None:
        world = self.world
        manifest = manifest_of(world.model_path)
        with world.open() as installation:
            report = take_snapshot(installation, world.settings.models[MODEL])
        assert not report.partial and not report.notes, report
        if report.snapshot is not None and not report.unchanged:
            self.manifests[report.snapshot.version] = manifest
            self.codecs.update(record.codec for record in records(world))

    def forget(self) -> None:
        versions = sorted(self.manifests)
        if not versions:
            return
        version = self.rng.choice(versions)
        with self.world.open() as installation:
            forget_snapshots(installation, [f"{MODEL}@v{version}"])
        del self.manifests[version]

    def prune(self) -> None:
        self.world.ahead += self.rng.choice([0.0, GRACE / 2, 2 * GRACE])
        grace = self.rng.choice([0.0, GRACE])
        for target in ("disk", "copy1"):
            with self.world.open() as installation:
                held = held_bytes(self.world, target)
                report = prune(installation, target, grace_seconds=grace)
            assert report.held_bytes == held
            assert_no_chains(self.world, target)
        self.attest()

    def copy(self) -> None:
        with self.world.open() as installation:
            results = replicate(installation, "disk", "copy1")
        assert not [result.error for result in results if result.error]

    def attest(self) -> None:
        """All that is promised, on each target."""
        world = self.world
        for target in ("disk", "copy1"):
            with world.open() as installation:
                listed = list_snapshots(installation, model=MODEL, targets=[target])
                versions = {info.version for info in listed}
                assert versions == self.manifests.keys() or target == "copy1"
                for version in versions:
                    with scratch(world.root / "restored") as out:
                        snapshot = resolve(installation, f"{MODEL}@v{version}", target=target)
                        report = restore(installation, snapshot, RestoreRequest(to=out))
                        assert not report.failed
                        assert manifest_of(out) == self.manifests[version]
            assert world.findings(target) == []
            assert_no_chains(world, target)


GARBAGE = "step capture noise replace capture step capture forget forget prune prune prune"
codecs: Counter[int] = Counter()


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    actions=st.lists(st.sampled_from((*ACTIONS, "capture", "step", "step")), max_size=24),
    seed=st.integers(0, 1 << 20),
)
@example(actions=f"{GARBAGE} copy replace capture copy prune prune".split(), seed=1)
@example(actions=f"copy {GARBAGE} step replace capture copy delete capture prune".split(), seed=5)
def run_histories(tmp_path: Path, actions: list[str], seed: int) -> None:
    with scratch(tmp_path / "world") as root:
        history = History(make_world(root, copies=1, size=1000), seed)
        for action in ["step", "capture", "step", "capture", *actions]:
            history.do(action)
        history.copy()
        history.attest()
        codecs.update(history.codecs)


def test_any_history_of_checkpoints_restores_from_each_target(tmp_path: Path) -> None:
    codecs.clear()
    run_histories(tmp_path)
    assert codecs[Codec.DELTA] > 20, "no history had deltas"
