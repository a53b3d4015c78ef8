"""What `export` makes is read by others: by GNU tar, by Python, and by whoever sees a folder."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from backupd.config.settings import LocalTarget
from backupd.errors import BackupdError, DamagedError, UsageError
from backupd.operations.catalog import ResolvedSnapshot
from backupd.operations.export import STDOUT, TAR, Exported, export, plan_export
from backupd.operations.names import words_of
from backupd.operations.resolve import resolve
from backupd.policy.naming import parse_layout
from tests.rigs.command_line import CommandLine
from tests.support.world import MODEL, World, make_world, manifest_of, scratch


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A model with everything that a tar can hold; tests leave it as it was."""
    world = make_world(tmp_path_factory.mktemp("export") / "world", size=300_000)
    path = world.model_path
    with (path / "holes.bin").open("wb") as file:
        file.write(b"begin")
        file.seek(3 << 20)
        file.write(b"middle" * 1000)
        file.truncate(8 << 20)
    with (path / "one-hole").open("wb") as file:
        file.truncate(5 << 20)
    (path / "empty-file").touch()
    os.close(os.open(bytes(path) + b"/latin-\xe9\xff", os.O_CREAT | os.O_WRONLY))
    (path / ("n" * 200)).write_text("a long name")
    (path / "täglich").mkdir()
    (path / "täglich" / "to nowhere").symlink_to("/etc/pass wd")
    os.setxattr(path / "weights.bin", "user.note", b"\x00binary\xff=%")
    os.setxattr(path / "checkpoint", "user.of%a=folder", b"x")
    (path / "weights.bin").chmod(0o4750)
    os.utime(path / "logs" / "train.log", ns=(1, 1_234_567_890_123_456_789))
    os.utime(path / "empty-file", ns=(1, -1_500_000_001))
    world.snapshot()
    (path / "second").write_text("v2")
    world.snapshot()
    return world


def exported(world: World, output: Path, *specs: str, **options: str) -> list[Exported]:
    with world.open() as installation:
        snapshots = [resolve(installation, f"{MODEL}@{spec}") for spec in specs]
        plan = plan_export(installation, snapshots, output, **options)
        for planned in plan:
            export(installation, planned, layout=options.get("layout", ""))
    return plan


def xattrs(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path) if "user." in name}


@pytest.mark.parametrize("ending", [".tar", ".tar.zst"])
def test_gnu_tar_gives_back_all_that_a_restore_would(
    world: World, tmp_path: Path, ending: str
) -> None:
    archive = tmp_path / f"out{ending}"
    exported(world, archive, "v1", layout="x/{model}-{version}")
    out = tmp_path / "out"
    out.mkdir()
    command = ["tar", "--xattrs", "-x", "-p", "-C", out, "-f", archive]
    subprocess.run([*command, *(["--zstd"] if "zst" in ending else [])], check=True)
    given = out / "x" / f"{MODEL}-1"
    assert manifest_of(given) == world.expected[1]
    assert xattrs(given / "weights.bin") == {"user.note": b"\x00binary\xff=%"}
    assert (given / "holes.bin").stat().st_blocks * 512 < 1 << 20, "the holes are holes"
    assert (given / "one-hole").stat().st_size == 5 << 20
    assert (given / "logs" / "train.log").stat().st_mtime_ns == 1_234_567_890_123_456_789


def test_python_reads_it_too(world: World, tmp_path: Path) -> None:
    exported(world, tmp_path / "out.tar", "v1")
    with tarfile.open(tmp_path / "out.tar") as tar:
        members = {member.name.partition("/")[2]: member for member in tar}
        assert (
            tar.extractfile(members["holes.bin"]).read()
            == (  # type: ignore[union-attr]
                world.model_path / "holes.bin"
            ).read_bytes()
        )
    assert members["weights.bin"].pax_headers["SCHILY.xattr.user.note"]
    assert members["weights.link"].islnk()
    assert members["latest"].linkname == "checkpoint"
    assert members["empty-file"].mtime == -1.500000001
    assert os.fsencode("latin-\udce9\udcff") in map(os.fsencode, members)
    size = (tmp_path / "out.tar").stat().st_size
    assert size % 10240 == 0


def test_several_versions_in_one_archive_or_in_one_folder(world: World, tmp_path: Path) -> None:
    exported(world, tmp_path / "all.tar", "v1", "v2")
    out = tmp_path / "untarred"
    out.mkdir()
    subprocess.run(["tar", "-x", "-p", "-C", out, "-f", tmp_path / "all.tar"], check=True)
    [first, second] = sorted(out.iterdir())
    assert manifest_of(first) == world.expected[1]
    assert manifest_of(second) == world.expected[2]
    made = exported(world, tmp_path / "tree", "v1", "v2")
    assert [manifest_of(each.place) for each in made] == [world.expected[1], world.expected[2]]
    made = exported(world, tmp_path / "tars", "v1", "v2", form="tar.zst")
    assert all(each.place.name.endswith(f"_v{n}.tar.zst") for n, each in enumerate(made, 1))
    for each in made:
        with zstandard.open(each.place) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            assert len(list(tar)) > 30


LAYOUTS = (
    "{project_name}/{date}/{model}/",
    "{project_name}/{date}/{model}/{model_name}_{YYYYMMDD}_v{version}{ext}",
    "{model}/v{version}{ext}",
    "{host}/{model}+{version}",
    "{label.stage}/{step}/{model}~{version}{ext}",
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_path_that_a_layout_gives_says_which_snapshot_it_is(
    world: World, tmp_path: Path, layout: str
) -> None:
    template = parse_layout(layout, world.settings.naming)
    with world.open() as installation:
        snapshots = [resolve(installation, f"{MODEL}@v{version}") for version in (1, 2)]
        plan = [
            planned
            for form in ("tree", "tar", "tar.zst")
            for planned in plan_export(installation, snapshots, tmp_path, form=form, layout=layout)
        ]
        for planned, snapshot in zip(plan, snapshots * 3, strict=True):
            path = str(planned.place.relative_to(tmp_path))
            if "ext" not in template.words:
                path = path.removesuffix(".zst").removesuffix(".tar")
            words = template.parse(path)
            assert words is not None
            known = words_of(world.settings, snapshot.info)
            assert template.render(replace(known, ext=words.ext)) == path
            assert (words.model, words.version) == (MODEL, snapshot.info.version)


def test_a_snapshot_of_one_file_is_that_file_under_its_layout(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    shutil.rmtree(world.model_path)
    world.model_path.mkdir()
    (world.model_path / "best.weights.h5").write_bytes(b"h5" * 500)
    world.snapshot()
    [made] = exported(world, tmp_path / "out", "v1", layout="{model}/{model}_v{version}{ext}")
    assert made.place == tmp_path / "out" / MODEL / f"{MODEL}_v1.h5"
    assert made.place.read_bytes() == b"h5" * 500
    assert os.listdir(made.place.parent) == [made.place.name]
    [made] = exported(world, tmp_path / "out", "v1", layout="{model}/{model}_w{version}")
    assert (made.place / "best.weights.h5").exists()


def test_nothing_is_left_where_a_part_is_damaged(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", size=300_000)
    world.snapshot()
    disk = world.targets["disk"]
    assert isinstance(disk, LocalTarget)
    largest = max((disk.path / "packs").rglob("*"), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[1000:1010] = bytes(10)
    largest.chmod(0o600)
    largest.write_bytes(data)
    with pytest.raises(DamagedError):
        exported(world, tmp_path / "out.tar", "v1")
    assert [name for name in os.listdir(tmp_path) if "out" in name] == []


def test_what_is_there_is_not_written_over(world: World, tmp_path: Path) -> None:
    (tmp_path / "out.tar").write_text("mine")
    with pytest.raises(BackupdError, match="is there already"):
        exported(world, tmp_path / "out.tar", "v1")
    assert (tmp_path / "out.tar").read_text() == "mine"
    exported(world, tmp_path / "out", "v1")
    exported(world, tmp_path / "out", "v1")  # what is right already is left alone


def test_two_hosts_in_one_layout_are_refused(world: World, tmp_path: Path) -> None:
    with world.open() as installation:
        snapshot = resolve(installation, f"{MODEL}@v1")
        other: ResolvedSnapshot = replace(snapshot, info=replace(snapshot.info, host="box2"))
        with pytest.raises(UsageError, match="would both be"):
            plan_export(installation, [snapshot, other], tmp_path)
        plan_export(installation, [snapshot, other], tmp_path, layout="{host}/{model}+{version}")
        for output, form in (
            (tmp_path / "x.tar", "tree"),
            (STDOUT, "tree"),
            (tmp_path, "zip"),
            (tmp_path / "x.zip", ""),
            (tmp_path / "x.tar.gz", ""),
        ):
            with pytest.raises(UsageError):
                plan_export(installation, [snapshot], output, form=form)


def test_a_hostile_snapshot_cannot_lead_out_of_the_archive(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backupd.operations import export as module
    from backupd.operations.catalog import iterate_files

    def hostile(snapshot: ResolvedSnapshot) -> list[object]:
        return [entry._replace(path=b"../../etc/x") for entry in iterate_files(snapshot)]

    monkeypatch.setattr(module, "iterate_files", hostile)
    with world.open() as installation:
        planned = Exported(STDOUT, (resolve(installation, f"{MODEL}@v1"),), TAR)
        with pytest.raises(BackupdError, match="outside of its root"):
            export(installation, planned, stdout=io.BytesIO())


def test_the_command_line_exports_all_versions_and_to_a_pipe(tmp_path: Path) -> None:
    backupd = CommandLine(tmp_path / "home", in_process=True)
    backupd.home.mkdir()
    model = tmp_path / "llama"
    model.mkdir()
    (model / "a").write_text("1")
    backupd.ok("quickstart", model, "--once")
    (model / "a").write_text("2")
    backupd.ok("snapshot")
    place = tmp_path / "out"
    planned = backupd.ok("export", "llama", "--all", "-o", place, "--dry-run", "--json").document
    assert not place.exists()
    made = backupd.ok("export", "llama", "--all", "-o", place, "--json").document
    assert [each["place"] for each in made["exported"]] == [
        each["place"] for each in planned["exported"]
    ]
    assert [Path(each["place"], "a").read_text() for each in made["exported"]] == ["1", "2"]
    done = subprocess.run(
        [*backupd_command(), "export", "llama@v1", "-o", "-", "--layout", "m/{model}{version}"],
        env=backupd.environment(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"not one-to-one" in done.stderr
    done = subprocess.run(
        [*backupd_command(), "export", "llama@v1", "-o", "-", "--layout", "m/{model}-{version}"],
        env=backupd.environment(),
        capture_output=True,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert tar.getnames() == ["m/llama-1", "m/llama-1/a"]
    with scratch(tmp_path / "x"):
        assert backupd("export", "llama@v1", "-o", "-", "--json").code == 2


def backupd_command() -> list[str]:
    import sys

    return [sys.executable, "-m", "backupd"]
