"""Real snapshots compared: the figures are those of the arrays that were saved."""

from __future__ import annotations

import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from backupd.cli import documents
from backupd.errors import StoppedError
from backupd.operations.diff import diff
from backupd.operations.diff_report import DiffReport, TensorChange
from backupd.operations.resolve import resolve
from backupd.repository.reader import BlobReader
from tests.rigs.command_line import CommandLine
from tests.support.checkpoints import bfloat16, trained, weights, write_safetensors
from tests.support.world import MODEL, World, make_world

LARGE = 3_000_000  # elements of float32: three pieces of a tensor


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path, size=4096)


def compared(world: World, old: int, new: int, **options: object) -> DiffReport:
    with world.open() as installation:
        snapshots = [resolve(installation, f"{MODEL}@v{version}") for version in (old, new)]
        return diff(*snapshots, **options)  # type: ignore[arg-type]


def by_name(report: DiffReport) -> dict[str, TensorChange]:
    return {change.name: change for change in report.tensors}


def assert_figures(
    change: TensorChange, old: NDArray[np.float32], new: NDArray[np.float32]
) -> None:
    a, b = old.astype(np.float64), new.astype(np.float64)
    figures = change.figures
    assert figures is not None
    assert (figures.count, figures.changed) == (len(a), int((a != b).sum()))
    assert figures.largest == np.abs(a - b).max()
    assert figures.mean == pytest.approx(np.abs(a - b).mean(), rel=1e-12)
    cosine = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    assert figures.cosine == pytest.approx(cosine, rel=1e-12)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_figures_are_those_of_the_arrays(world: World, threads: int) -> None:
    before = {
        "layers.0.large": weights(1, LARGE),
        "layers.0.small": weights(2, 500),
        "layers.1.same": weights(3, 300_000),
        "layers.1.tiny": weights(4, 3),
        "head.frozen": weights(5, 900),
    }
    after = {**before, "layers.0.small": trained(before["layers.0.small"], 1)}
    # The pieces before and behind stay what they are, and count for the cosine all the same.
    after["layers.0.large"] = before["layers.0.large"].copy()
    after["layers.0.large"][1_500_000:1_600_000] += np.float32(0.25)
    after["layers.1.tiny"] = before["layers.1.tiny"] * np.float32(2)
    path = world.model_path / "model.safetensors"
    write_safetensors(path, before)
    world.snapshot()
    write_safetensors(path, after)
    world.snapshot()
    report = compared(world, 1, 2, threads=threads)
    changed = by_name(report)
    assert set(changed) == {"layers.0.large", "layers.0.small", "layers.1.tiny"}
    for name, change in changed.items():
        assert (change.change, change.dtype, change.path) == (
            "changed",
            "f32",
            b"model.safetensors",
        )
        assert_figures(change, before[name], after[name])
    assert report.unchanged_tensors == 2
    means = [change.figures.mean for change in report.tensors if change.figures]
    assert means == sorted(means, reverse=True)
    layers = {layer.prefix: layer for layer in report.layers}
    assert {name: (layer.changed, layer.tensors) for name, layer in layers.items()} == {
        "layers.0": (2, 2),
        "layers.1": (1, 2),
    }
    both = [
        np.concatenate([side["layers.0.large"], side["layers.0.small"]]) for side in (before, after)
    ]
    mean = np.abs(both[0].astype(np.float64) - both[1]).mean()
    figures = layers["layers.0"].figures
    assert figures is not None
    assert figures.mean == pytest.approx(mean, rel=1e-12)


def test_tensors_that_are_the_same_are_not_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = weights(1, LARGE)
    path = world.model_path / "model.safetensors"
    write_safetensors(path, {"frozen": frozen, "moving": weights(2, 400_000)})
    world.snapshot()
    write_safetensors(path, {"frozen": frozen, "moving": weights(3, 400_000)})
    world.snapshot()
    sizes: list[int] = []
    read = BlobReader.read

    def counted(reader: BlobReader, blob_id: bytes) -> object:
        chunk = read(reader, blob_id)
        sizes.append(len(chunk))
        return chunk

    monkeypatch.setattr(BlobReader, "read", counted)
    report = compared(world, 1, 2)
    assert set(by_name(report)) == {"moving"}
    # Both sides, and once more where the new one is a difference from the old.
    assert sum(sizes) < 3 * 1_600_000 + 200_000


def test_a_renamed_checkpoint_is_compared_with_what_it_was(world: World) -> None:
    before = weights(1, 50_000)
    write_safetensors(world.model_path / "checkpoint-500/model.safetensors", {"w": before})
    world.snapshot()
    (world.model_path / "checkpoint-500").rename(world.model_path / "checkpoint-1000")
    after = trained(before, 1)
    write_safetensors(world.model_path / "checkpoint-1000/model.safetensors", {"w": after})
    world.snapshot()
    [change] = compared(world, 1, 2).tensors
    assert (change.old_path, change.path) == (
        b"checkpoint-500/model.safetensors",
        b"checkpoint-1000/model.safetensors",
    )
    assert_figures(change, before, after)


def test_a_new_checkpoint_beside_the_old_is_compared_with_it(world: World) -> None:
    before = weights(1, 50_000)
    write_safetensors(world.model_path / "checkpoint-500/model.safetensors", {"w": before})
    world.snapshot()
    after = trained(before, 1)
    write_safetensors(world.model_path / "checkpoint-1000/model.safetensors", {"w": after})
    world.snapshot()
    report = compared(world, 1, 2)
    assert "added" in {change.change for change in report.files}
    assert_figures(by_name(report)["w"], before, after)


def test_a_tensor_in_another_shard_is_found_by_its_name(world: World) -> None:
    a, b, c = (weights(seed, 40_000) for seed in (1, 2, 3))
    folder = world.model_path
    write_safetensors(folder / "model-a.safetensors", {"a": a, "b": b})
    write_safetensors(folder / "model-b.safetensors", {"c": c})
    world.snapshot()
    write_safetensors(folder / "model-a.safetensors", {"a": a})
    write_safetensors(folder / "model-b.safetensors", {"b": trained(b, 1), "c": c})
    world.snapshot()
    report = compared(world, 1, 2)
    [change] = report.tensors
    assert (change.old_path, change.path) == (b"model-a.safetensors", b"model-b.safetensors")
    assert_figures(change, b, trained(b, 1))
    assert report.unchanged_tensors == 2


def test_what_cannot_be_compared_is_replaced_added_or_removed(world: World) -> None:
    path = world.model_path / "model.safetensors"
    values = weights(1, 40_000)
    write_safetensors(path, {"grows": values, "goes": values[:9], "halves": values[:20_000]})
    world.snapshot()
    halves = bfloat16(values[:20_000])
    write_safetensors(path, {"grows": weights(1, 41_000), "comes": values[:9], "halves": halves})
    world.snapshot()
    changed = by_name(compared(world, 1, 2))
    assert {name: change.change for name, change in changed.items()} == {
        "grows": "replaced",
        "goes": "removed",
        "comes": "added",
        "halves": "changed",
    }
    # Another type of the same shape is compared by value.
    wide = (halves.astype(np.uint32) << 16).view(np.float32)
    assert_figures(changed["halves"], values[:20_000], wide)
    assert (changed["halves"].old_dtype, changed["halves"].dtype) == ("f32", "bf16")


def test_containers_too_small_for_a_layout_are_compared_too(world: World) -> None:
    path = world.model_path / "adapter.npy"
    before = weights(1, 1000)
    np.save(path, before)
    world.snapshot()
    np.save(path, trained(before, 1))
    world.snapshot()
    [change] = compared(world, 1, 2).tensors
    assert_figures(change, before, trained(before, 1))


def test_labels_and_metrics_that_differ_are_told(world: World) -> None:
    world.snapshot(labels={"by": "me", "same": "1"}, metrics={"loss": 2.0})
    world.snapshot(labels={"same": "1"}, metrics={"loss": 1.5})
    report = compared(world, 1, 2)
    assert report.labels == {"by": ("me", None)}
    assert report.metrics == {"loss": (2.0, 1.5)}
    assert (report.files, report.tensors) == ((), ())


def test_memory_does_not_grow_with_a_tensor(world: World) -> None:
    path = world.model_path / "model.safetensors"
    peaks = []
    for count in (1 << 20, 1 << 23):
        for seed in (1, 2):
            write_safetensors(path, {"w": weights(seed, count)})
            world.snapshot()
        tracemalloc.start()
        compared(world, world.highest - 1, world.highest)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + (4 << 20)


def test_a_stop_ends_it(world: World) -> None:
    path = world.model_path / "model.safetensors"
    for seed in (1, 2):
        write_safetensors(path, {"w": weights(seed, 100_000)})
        world.snapshot()
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        compared(world, 1, 2, stop=stop)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """A model `llama` of two versions with long names, seen through the command line."""
    base = tmp_path_factory.mktemp("diff")
    backupd = CommandLine(base / "home", in_process=True)
    backupd.home.mkdir()
    names = [f"model.decoder.layers.{n}.self_attention.q_proj.weight" for n in range(30)]
    tensors = {name: weights(n, 5000) for n, name in enumerate(names)}
    write_safetensors(base / "llama/checkpoint-500/model.safetensors", tensors)
    backupd.ok("quickstart", base / "llama", "--once")
    (base / "llama/checkpoint-500").rename(base / "llama/checkpoint-1000")
    moved = {name: trained(values, 1) for name, values in tensors.items()}
    write_safetensors(base / "llama/checkpoint-1000/model.safetensors", moved)
    backupd.ok("snapshot", "--metric", "loss=1.5")
    return backupd


def test_the_answer_fits_80_columns_and_loses_no_name(made: CommandLine) -> None:
    shown = made.ok("diff", "llama@v1", "llama@v2", COLUMNS="80").out
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert "30 tensors differ (30 changed), 0 are the same" in shown
    assert "and 10 more tensors, which -v shows" in shown
    assert "which -v shows" not in made.ok("diff", "llama@v1", "llama@v2", "-v").out


def test_parts_are_shown_where_asked_for(made: CommandLine) -> None:
    files = made.ok("diff", "llama@v1", "llama@v2", "--files").out
    assert "moved" in files
    assert "TENSOR" not in files
    tensors = made.ok("diff", "llama@v1", "llama@v2", "--tensors", "--limit", "3").out
    assert "PATH" not in tensors
    assert "and 27 more tensors, which -v shows" in tensors


def test_the_document_holds_everything(made: CommandLine) -> None:
    document = made.ok("--json", "diff", "llama@v1", "llama@v2").document
    assert len(document["tensors"]) == document["changed_tensors"] == 30
    assert document["metrics"] == {"loss": {"old": None, "new": 1.5}}
    figures = document["tensors"][0]["figures"]
    assert 0.999 < figures["cosine"] < 1
    assert document["failed"] == []


def test_a_snapshot_does_not_differ_from_itself(made: CommandLine) -> None:
    shown = made.ok("diff", "llama@v2", "llama@v2").out
    assert "no path differs, 3 are the same" in shown
    assert "no tensor differs" in shown


def test_a_tensor_that_cannot_be_read_is_named_and_the_rest_is_told(made: CommandLine) -> None:
    base = made.home.parent
    write_safetensors(base / "llama/checkpoint-1000/other.safetensors", {"o": weights(8, 90_000)})
    made.ok("snapshot")
    write_safetensors(base / "llama/checkpoint-1000/other.safetensors", {"o": weights(9, 90_000)})
    packs = set(made.repository.glob("packs/*/*"))
    made.ok("snapshot")
    largest = max(set(made.repository.glob("packs/*/*")) - packs, key=lambda p: p.stat().st_size)
    sound = largest.read_bytes()
    try:
        largest.chmod(0o600)
        largest.write_bytes(sound[:1000] + bytes([sound[1000] ^ 1]) + sound[1001:])
        answer = made("diff", "llama@v3", "llama@v4")
        assert answer.code == 3
        assert "other.safetensors: o: blob" in answer.err
        assert "1 path differs (1 changed)" in answer.out
        assert "no tensor differs" in answer.out
    finally:
        largest.write_bytes(sound)


def test_a_name_that_would_harm_the_terminal_is_escaped(tmp_path: Path) -> None:
    backupd = CommandLine(tmp_path / "home", in_process=True)
    backupd.home.mkdir()
    for seed in (1, 2):
        write_safetensors(tmp_path / "m/model.safetensors", {"a\x1b[31m": weights(seed, 40_000)})
        backupd.ok(*(["quickstart", tmp_path / "m", "--once"] if seed == 1 else ["snapshot"]))
    for command in (["diff", "m@v1", "m@v2"], ["show", "m@v2", "-v"]):
        shown = backupd.ok(*command).out
        assert "a\\x1b[31m" in shown
        assert "\x1b" not in shown


def test_half_a_character_in_a_name_is_no_harm_to_the_document() -> None:
    change = TensorChange("added", "half \ud800", b"m.pt", "f32", (1,), 4)
    assert documents.tensor_change(change)["name"] == "half ?"


def test_an_unknown_snapshot_is_4(made: CommandLine) -> None:
    assert made("diff", "llama@v1", "llama@v9").code == 4
