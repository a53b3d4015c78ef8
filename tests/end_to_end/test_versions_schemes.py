"""A snapshot under each scheme gives back what the scheme keeps, and says what it left out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backupd.config.settings import ModelSettings
from backupd.operations.catalog import iterate_files
from backupd.operations.reports import SnapshotReport
from backupd.operations.resolve import resolve
from backupd.operations.snapshot import take_snapshot
from backupd.policy.schemes import SCHEMES
from backupd.repository.snapshots import LeftOut, SnapshotRecord
from tests.rigs.command_line import CommandLine
from tests.support.checkpoints import safetensors, weights
from tests.support.world import MODEL, World, make_world, manifest_of, scratch

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "containers"
ROLES = {
    "weights": ("checkpoint-5/model.safetensors", "checkpoint-5/model.safetensors.index.json"),
    "training": ("checkpoint-5/optimizer.pt", "checkpoint-5/trainer_state.json", "state.bin"),
    "graph": ("saved_model.pb",),
    "tokenizer": ("tokenizer.json",),
    "configuration": ("config.json", "checkpoint-5/config.json"),
    "code": ("train.py",),
    "other": ("logs/run.log", "README.md"),
}
KEPT = {
    "model": {"graph", "tokenizer", "configuration"},
    "params": {"weights"},
    "model+params": {"graph", "tokenizer", "configuration", "weights"},
    "code+params": {"code", "configuration", "weights"},
    "everything": set(ROLES),
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path)
    shutil.rmtree(world.model_path)
    for paths in ROLES.values():
        for path in paths:
            place = world.model_path / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(f"{path} ".encode() * 100)
    (world.model_path / "checkpoint-5" / "model.safetensors").write_bytes(
        safetensors({"w": weights(1, 50_000)})
    )
    index = {"metadata": {}, "weight_map": {"w": "model.safetensors"}}
    for path, content in (
        ("checkpoint-5/model.safetensors.index.json", json.dumps(index)),
        ("checkpoint-5/trainer_state.json", '{"global_step": 5, "log_history": []}'),
        ("checkpoint-5/config.json", "{}"),
        ("config.json", '{"a": 1}'),
        ("tokenizer.json", "{}"),
    ):
        (world.model_path / path).write_text(content)
    shutil.copy(GOLDEN / "tensor.pt", world.model_path / "checkpoint-5" / "optimizer.pt")
    # Its name leaves it open; its tensors are those of an optimizer.
    state = {"state.0.exp_avg": weights(2, 50_000), "state.0.exp_avg_sq": weights(3, 50_000)}
    (world.model_path / "state.bin").write_bytes(safetensors(state))
    (world.model_path / "latest").symlink_to("checkpoint-5")
    return world


def take(world: World, scheme: str, **changes: object) -> SnapshotReport:
    model = replace(world.settings.models[MODEL], scheme=scheme, **changes)  # type: ignore[arg-type]
    assert isinstance(model, ModelSettings)
    with world.open() as installation:
        return take_snapshot(installation, model)


def record(world: World, version: int) -> SnapshotRecord:
    with world.open() as installation:
        return resolve(installation, f"{MODEL}@v{version}").stored.record


def files(world: World, version: int) -> set[str]:
    with world.open() as installation:
        entries = iterate_files(resolve(installation, f"{MODEL}@v{version}"))
        return {e.path.decode() for e in entries if e.type.value in "fh"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_a_scheme_keeps_comes_back_and_the_rest_is_accounted_for(
    world: World, scheme: str
) -> None:
    expected = {path for role in KEPT[scheme] for path in ROLES[role]}
    before = manifest_of(world.model_path)
    report = take(world, scheme)
    assert not report.partial
    assert files(world, 1) == expected
    with scratch(world.root / "out") as out:
        world.restore(1, out)
        given = manifest_of(out)
    assert given["latest"] == before["latest"]
    assert {path: given[path] for path in expected} == {path: before[path] for path in expected}
    taken = record(world, 1)
    assert taken.scheme == scheme
    left = {part.role: part for part in taken.left_out}
    assert left.keys() == ROLES.keys() - KEPT[scheme]
    for role, part in left.items():
        sizes = [(world.model_path / path).stat().st_size for path in ROLES[role]]
        assert part == LeftOut(role, len(sizes), sum(sizes), tuple(sorted(ROLES[role])))


def test_each_scheme_is_compared_with_its_own_last_snapshot(world: World) -> None:
    take(world, "everything")
    assert not take(world, "params").unchanged, "another scheme is another version"
    assert take(world, "params").unchanged
    again = take(world, "everything")
    assert again.unchanged
    assert again.snapshot is not None
    assert again.snapshot.version == 1
    (world.model_path / "train.py").write_text("changed")
    assert take(world, "params").unchanged, "the scheme does not keep what changed"
    assert not take(world, "everything").unchanged
    assert record(world, 3).parent == 1
    (world.model_path / "checkpoint-5" / "model.safetensors.index.json").unlink()
    assert not take(world, "params").unchanged
    assert record(world, 4).parent == 2
    assert record(world, 4).added_bytes < 2000, "but for the list of files all was stored"


def test_a_scheme_is_a_version_also_where_it_leaves_nothing_out(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    shutil.rmtree(world.model_path)
    world.model_path.mkdir()
    (world.model_path / "w.npy").write_bytes(b"x" * 1000)
    take(world, "everything")
    assert not take(world, "params").unchanged
    assert record(world, 2).scheme == "params"


def test_a_file_with_two_names_is_kept_if_one_of_them_is(world: World) -> None:
    (world.model_path / "a.log").hardlink_to(world.model_path / "checkpoint-5/model.safetensors")
    np.save(world.model_path / "b.npy", np.random.default_rng(5).normal(size=600))
    (world.model_path / "b.npy").rename(world.model_path / "b.log")
    data = (world.model_path / "b.log").read_bytes()
    (world.model_path / "c.npy").hardlink_to(world.model_path / "b.log")
    take(world, "params")
    assert files(world, 1) == {*ROLES["weights"], "a.log", "c.npy"}
    with scratch(world.root / "out") as out:
        assert not world.restore(1, out).failed
        assert (out / "c.npy").read_bytes() == data


def test_weights_under_another_scheme_are_still_differences_from_the_last(world: World) -> None:
    place = world.model_path / "checkpoint-5" / "model.safetensors"
    first = weights(1, 500_000)
    place.write_bytes(safetensors({"w": first}))
    take(world, "everything")
    place.write_bytes(safetensors({"w": first * np.float32(1.0001)}))
    place.with_name("model.safetensors.index.json").touch()  # which is written last
    report = take(world, "params")
    assert report.snapshot is not None
    assert report.snapshot.stored_bytes < 0.75 * place.stat().st_size
    with scratch(world.root / "out") as out:
        world.restore(2, out)
        assert (out / "checkpoint-5" / place.name).read_bytes() == place.read_bytes()


def test_the_configuration_chooses_and_the_command_line_chooses_again(tmp_path: Path) -> None:
    backupd = CommandLine(tmp_path / "home", in_process=True)
    backupd.home.mkdir()
    model = tmp_path / "llama"
    model.mkdir()
    (model / "model.safetensors").write_bytes(safetensors({"w": weights(1, 1000)}))
    (model / "ema.dat").write_bytes(b"e" * 500)
    (model / "run.log").write_bytes(b"l" * 500)
    backupd.ok("quickstart", model, "--once")
    text = backupd.config.read_text().replace(
        f"path: {model}\n",
        f"path: {model}\n    scheme: params\n    roles: {{weights: ['*.dat']}}\n",
    )
    assert "scheme: params" in text
    backupd.config.write_text(text)
    assert "llama@v2 (params): 2 files" in backupd.ok("snapshot").out
    shown = backupd.ok("show", "llama@v2").out
    assert "params, without 1 other file of 500 B (run.log)" in " ".join(shown.split())
    left = [{"role": "other", "files": 1, "size_bytes": 500, "paths": ["run.log"]}]
    document = backupd.ok("show", "llama@v2", "--json").document
    assert document["left_out"] == left
    assert document["snapshot"]["scheme"] == "params"
    assert "llama: unchanged" in backupd.ok("snapshot", "--scheme", "everything").out
    assert "llama@v3 (model): 0 files" in backupd.ok("snapshot", "--scheme", "model").out
    answer = backupd("snapshot", "--scheme", "parms")
    assert answer.code == 2
    assert "'params'" in answer.err
