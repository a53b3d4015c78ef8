"""A past that others kept becomes versions: in order, of its own times, stored once."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from backupd.errors import BackupdError, UsageError
from backupd.operations.catalog import iterate_files
from backupd.operations.importing import Scratch, folder_of, import_states, plan_import
from backupd.operations.past import PastState, find_states, parse_moment
from backupd.operations.progress import NoProgress
from backupd.operations.reports import SnapshotReport
from backupd.operations.resolve import resolve
from backupd.repository.snapshots import SnapshotRecord
from tests.rigs.command_line import CommandLine
from tests.support.checkpoints import safetensors, trained, weights
from tests.support.killing import killed_in_child
from tests.support.world import MODEL, World, make_world, manifest_of, scratch

NAMED = "{model_name}_{YYYYMMDD}_v{version}"
ZONE = datetime.now().astimezone().tzinfo
assert ZONE is not None


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A world without snapshots, and a past of five dated folders in `old`."""
    world = make_world(tmp_path / "world")
    shutil.rmtree(world.model_path)
    world.model_path.mkdir()
    first = weights(1, 200_000)
    for version, day in ((1, 3), (2, 4), (3, 4), (7, 9), (10, 12)):
        place = world.root / "old" / f"{MODEL}_202401{day:02d}_v{version}"
        place.mkdir(parents=True)
        values = trained(first, version) if version > 1 else first
        (place / "model.safetensors").write_bytes(safetensors({"w": values}))
        (place / "same.bin").write_bytes(np.random.default_rng(5).bytes(300_000))
        (place / "note.txt").write_text(f"v{version}")
        os.utime(place / "note.txt", ns=(1, version * 10**17))
    (world.root / "old" / "other_20240101_v1").mkdir()
    (world.root / "old" / "README").write_text("of the folder")
    return world


def states(world: World, pattern: str = NAMED) -> list[PastState]:
    assert ZONE is not None
    return find_states(world.root / "old", pattern, model=MODEL, zone=ZONE)[0]


def imported(world: World, found: list[PastState]) -> list[SnapshotReport]:
    model = world.settings.models[MODEL]
    with world.open() as installation, Scratch(world.root / "scratch") as scratch:
        plan = plan_import(installation, model, found)
        return [
            report
            for _, report in import_states(
                installation,
                model,
                plan,
                lambda state: folder_of(state, scratch, called=MODEL),
                progress=NoProgress(),
                stop=installation.stopping,
            )
        ]


def record(world: World, version: int) -> SnapshotRecord:
    with world.open() as installation:
        return resolve(installation, f"{MODEL}@v{version}").stored.record


def test_dated_folders_become_versions_of_their_days(world: World) -> None:
    reports = imported(world, states(world))
    assert world.listed() == [1, 2, 3, 7, 10], "the numbers of the names are kept"
    assert [r.snapshot.labels["imported"] for r in reports if r.snapshot] == [
        state.source for state in states(world)
    ]
    for version, day in ((1, 3), (2, 4), (3, 4), (7, 9), (10, 12)):
        taken = record(world, version)
        moment = datetime.fromtimestamp(taken.time, ZONE)
        assert (moment.year, moment.month, moment.day) == (2024, 1, day)
        assert taken.root == bytes(world.model_path), "it is given back to the model's folder"
        with scratch(world.root / "out") as out:
            assert not world.restore(version, out).failed
            source = world.root / "old" / f"{MODEL}_202401{day:02d}_v{version}"
            assert manifest_of(out) == manifest_of(source)
    times = [record(world, version).time for version in (1, 2, 3, 7, 10)]
    assert times == sorted(times)
    assert [record(world, v).parent for v in (1, 2, 3, 7, 10)] == [0, 1, 2, 3, 7]
    assert world.findings() == []


def test_what_they_share_is_stored_once_and_checkpoints_as_differences(world: World) -> None:
    reports = imported(world, states(world))
    size = (world.root / "old" / f"{MODEL}_20240103_v1" / "model.safetensors").stat().st_size
    for report in reports[1:]:
        assert report.snapshot is not None
        assert report.snapshot.added_bytes < size + 5000, "same.bin is there"
        assert report.snapshot.stored_bytes < 0.8 * size, "the weights are a difference"


def test_the_model_goes_on_from_its_past(world: World) -> None:
    imported(world, states(world))
    source = world.root / "old" / f"{MODEL}_20240112_v10"
    shutil.copytree(source, world.model_path, dirs_exist_ok=True)
    world.highest = 10
    assert world.snapshot().unchanged, "the folder is the newest of the past"
    (world.model_path / "note.txt").write_text("on")
    report = world.snapshot()
    assert report.snapshot is not None
    assert report.snapshot.version == 11
    assert record(world, 11).parent == 10
    assert report.snapshot.added_bytes < 5000


def test_a_run_that_is_killed_goes_on_where_it_ended(world: World) -> None:
    def child() -> None:
        model = world.settings.models[MODEL]
        with world.open() as installation, Scratch(world.root / "scratch") as scratch:
            plan = plan_import(installation, model, states(world))
            steps = import_states(
                installation,
                model,
                plan,
                lambda state: folder_of(state, scratch, called=MODEL),
                progress=NoProgress(),
                stop=installation.stopping,
            )
            next(steps), next(steps)
            os.kill(os.getpid(), 9)

    assert killed_in_child(child)
    assert world.listed() == [1, 2]
    assert len(imported(world, states(world))) == 3
    assert world.listed() == [1, 2, 3, 7, 10]
    assert imported(world, states(world)) == []


def test_what_an_interrupted_import_left_is_cleared_and_two_at_once_are_refused(
    tmp_path: Path,
) -> None:
    (tmp_path / ".backupd-import-abc" / "x").mkdir(parents=True)
    (tmp_path / "mine").touch()
    with Scratch(tmp_path) as scratch:
        assert os.listdir(tmp_path) == ["mine"]
        with scratch.folder() as folder:
            assert folder.is_dir()
            with pytest.raises(BackupdError, match="another import"):
                Scratch(tmp_path)
    assert os.listdir(tmp_path) == ["mine"]


def test_a_past_does_not_come_behind_the_present(world: World) -> None:
    (world.model_path / "now").write_text("present")
    world.snapshot()
    with pytest.raises(BackupdError, match="is there already"):
        imported(world, states(world))
    assert world.listed() == [1]


def test_a_glob_goes_by_the_times_of_the_files(world: World) -> None:
    for number, name in enumerate(["run-b", "run-a", "run-c"]):
        place = world.root / "old" / name
        place.mkdir()
        (place / "w.bin").write_text(name)
        os.utime(place / "w.bin", (number, 1_700_000_000 + number * 1000))
    found = states(world, "run-*")
    assert [state.source for state in found] == ["run-b", "run-a", "run-c"]
    assert [state.time for state in found] == [1_700_000_000 + n * 1000 for n in range(3)]


def test_nested_folders_steps_and_single_files(world: World) -> None:
    place = world.root / "old" / "2024-03-01" / MODEL
    place.mkdir(parents=True)
    for step in (500, 1000, 9):
        (place / f"{MODEL}_step{step}.h5").write_bytes(b"%d" % step * 100)
    found = states(world, "{date}/{model}/{model_name}_step{step}.h5")
    assert [state.step for state in found] == [9, 500, 1000]
    imported(world, found)
    with world.open() as installation:
        entries = list(iterate_files(resolve(installation, f"{MODEL}@latest")))
    assert [entry.path for entry in entries] == [b"", f"{MODEL}.h5".encode()]
    assert record(world, 3).step == 1000
    assert [name for name in os.listdir(place) if "backupd" in name] == []


def test_patterns_that_are_none_are_refused(world: World) -> None:
    for pattern in ("{model}{date}{step", "{nonsense}", "../*", "/etc/*"):
        with pytest.raises(UsageError):
            states(world, pattern)
    with pytest.raises(BackupdError, match=r"there are .*other"):
        find_states(world.root / "old", NAMED, model="nobody", zone=ZONE)  # type: ignore[arg-type]
    with pytest.raises(BackupdError, match="nothing in"):
        states(world, "nothing-*")
    with pytest.raises(BackupdError, match="is no folder"):
        find_states(world.root / "absent", "*", model=MODEL, zone=ZONE)  # type: ignore[arg-type]


def test_times_of_restic_are_read_whatever_their_digits() -> None:
    assert parse_moment("2024-01-03T10:00:00.123456789+01:00") == 1704272400.123456
    assert parse_moment("2024-01-03T09:00:00Z") == 1704272400


class Restic:
    """A restic repository made by the real restic, in a home of its own."""

    def __init__(self, root: Path) -> None:
        self.place = root / "restic"
        self.environment = {
            "HOME": str(root),
            "PATH": os.environ["PATH"],
            "RESTIC_PASSWORD": "secret",
            "RESTIC_REPOSITORY": str(self.place),
            "RESTIC_CACHE_DIR": str(root / "cache"),
        }
        self("init")

    def __call__(self, *arguments: str | Path) -> None:
        command = ["restic", *map(str, arguments)]
        subprocess.run(command, env=self.environment, check=True, capture_output=True)


def test_the_snapshots_of_a_restic_repository_become_versions(tmp_path: Path) -> None:
    restic = Restic(tmp_path)
    model = tmp_path / "llama [1]"
    model.mkdir()
    first = weights(1, 200_000)
    expected = []
    for number in range(3):
        (model / "model.safetensors").write_bytes(safetensors({"w": trained(first, number)}))
        (model / "same.bin").write_bytes(np.random.default_rng(5).bytes(300_000))
        (model / f"{number}.txt").write_text(str(number))
        stamp = f"2024-02-0{3 - number} 12:00:00"  # backed up out of order
        tags = ["--tag", f"run={number}"]
        restic("backup", model, "--time", stamp, "--host", "box9", *tags)
        expected.append((stamp[:10], manifest_of(model)))
    (tmp_path / "elsewhere").mkdir()
    restic("backup", tmp_path / "elsewhere")
    before = {path: path.stat().st_mtime_ns for path in restic.place.rglob("*") if path.is_file()}

    backupd = CommandLine(tmp_path / "home", in_process=True)
    backupd.home.mkdir()
    backupd.ok("quickstart", tmp_path / "elsewhere", "--once")
    text = backupd.config.read_text()
    text = text.replace("elsewhere:", "llama:").replace(str(tmp_path / "elsewhere"), f"'{model}'")
    backupd.config.write_text(text)
    arguments = ("import", "llama", "--restic", restic.place)
    secret = {key: restic.environment[key] for key in ("RESTIC_PASSWORD", "RESTIC_CACHE_DIR")}
    wrong = backupd(*arguments, RESTIC_PASSWORD="wrong", PATH=os.environ["PATH"])
    assert wrong.code == 1
    assert "restic failed" in wrong.err
    secret["PATH"] = os.environ["PATH"]
    planned = backupd.ok(*arguments, "--dry-run", "--json", **secret).document["states"]
    assert [state["time"][:10] for state in planned] == ["2024-02-01", "2024-02-02", "2024-02-03"]
    assert [state["labels"] for state in planned] == [{"run": str(n)} for n in (2, 1, 0)]
    backupd.ok(*arguments, **secret)
    versions = backupd.ok("log", "llama", "--json").document["versions"]
    assert [v["version"] for v in versions] == [3, 2, 1]
    assert [v["time"][:10] for v in versions] == ["2024-02-03", "2024-02-02", "2024-02-01"]
    assert [v["labels"]["run"] for v in versions] == ["0", "1", "2"]
    assert versions[0]["root"] == str(model)
    assert all(v["stored_bytes"] < 0.8 * 800_000 for v in versions[:2]), "stored as differences"
    for (_, manifest), version in zip(expected, versions, strict=True):
        out = tmp_path / "out" / str(version["version"])
        backupd.ok("restore", version["name"], "--to", out)
        assert manifest_of(out) == manifest
    again = backupd.ok(*arguments, "--path", f"{model}/", **secret)
    assert "3 states imported before" in again.out
    after = {path: path.stat().st_mtime_ns for path in restic.place.rglob("*") if path.is_file()}
    assert after == before, "restic's repository is as it was"
    assert backupd(*arguments, "--path", "/nowhere", **secret).code == 1
    assert not list(tmp_path.rglob("*backupd-import*"))
