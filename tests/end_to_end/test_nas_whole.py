"""A NAS through whole runs: one that hangs beside a disk, another disk in its place, and FAT."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.config.settings import NasTarget
from backupd.errors import TargetError, TargetUnreachableError
from backupd.operations.forget import forget_snapshots
from backupd.operations.prune import prune
from backupd.operations.setup import initialise
from tests.end_to_end.test_cli_daemon import running, wait_for
from tests.rigs.command_line import CommandLine
from tests.rigs.faulty_mount import faulty_mount
from tests.support.world import MODEL, change_model, make_world
from tests.support.world import small_packs as small_packs
from tests.targets.conftest import mounted_tmpfs

pytestmark = [pytest.mark.usefixtures("small_packs"), pytest.mark.system]

DAY = 86_400.0


def test_a_repository_on_a_share_like_fat_goes_through_its_whole_life(tmp_path: Path) -> None:
    # FAT itself is not in every kernel: what it lacks, the pass-through refuses as FAT does.
    with faulty_mount(tmp_path / "share") as mount:
        mount.faults(link="EPERM", fsyncdir="EINVAL", chmod="EPERM", case="folded")
        place = mount.path
        (place / "A").write_text("")
        assert (place / "a").exists(), "it tells case apart"
        with pytest.raises(PermissionError):
            (place / "link").hardlink_to(place / "a")
        world = make_world(
            tmp_path / "world", disk=NasTarget("disk", place / "models"), size=1 << 18
        )
        rng = random.Random(3)
        for _ in range(3):
            world.snapshot()
            change_model(world.model_path, rng)
        world.verify()
        with world.open() as installation:
            forget_snapshots(installation, [f"{MODEL}@v1"])
        world.expected.pop(1)
        for days in (2, 4):
            with replace(world, ahead=days * DAY).open() as installation:
                prune(installation, "disk")
        assert not world.findings()
        world.verify()
        assert not world.temporaries()


def test_a_nas_that_hangs_holds_up_neither_the_disk_nor_the_command(tmp_path: Path) -> None:
    cli = CommandLine(tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.bin").write_bytes(random.Random(1).randbytes(100_000))
    with faulty_mount(tmp_path / "share") as mount:
        config = tmp_path / "backupd.yaml"
        config.write_text(
            f"state_dir: {tmp_path}/state\nkey: {{file: {tmp_path}/key}}\n"
            "limits: {nice: 0, io: none}\n"
            f"targets:\n  disk: {{type: local, path: {tmp_path}/disk}}\n"
            f"  nas: {{type: nas, path: {mount.path}/models, give_up_after: 6s}}\n"
            "policies: {all: {keep_last: 9}}\n"
            f"models: {{m: {{path: {model}, targets: {{disk: all, nas: all}}}}}}\n"
        )
        arguments = ("--config", config)
        cli.ok(*arguments, "init")
        mount.faults(read="hang", write="hang", readdir="hang", open="hang")
        begun = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "backupd", *map(str, arguments), "snapshot", "m"],
            env=cli.environment(),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        said = next(line for line in process.stderr if "hangs" in line)
        assert "nas" in said and time.monotonic() - begun < 150
        # What hangs in FUSE keeps a process from being reaped, whatever the process does.
        mount.faults()
        assert process.wait(150) == 3
        process.stderr.close()
        assert "m@v1" in cli.ok(*arguments, "list").out
        cli.ok(*arguments, "sync", "--to", "nas")
        cli.ok(*arguments, "check", "--target", "nas", "--read-data")
        cli.ok(*arguments, "restore", "m@v1", "--target", "nas", "--to", tmp_path / "out")
        out = tmp_path / "out/weights.bin"
        assert out.read_bytes() == (model / "weights.bin").read_bytes()


def test_another_repository_in_the_place_of_the_one_that_was_there_is_refused(
    tmp_path: Path,
) -> None:
    share = tmp_path / "nas"
    target = NasTarget("disk", share / "models")
    with mounted_tmpfs(share):
        world = make_world(tmp_path / "world", disk=target, size=1 << 16)
        world.snapshot()
    # A disk with nothing on it, then one of somebody else with the same key.
    with mounted_tmpfs(share):
        (share / "models").mkdir()
        with world.open() as installation, pytest.raises(TargetUnreachableError) as caught:
            installation.repository("disk")
        assert "that was at" in str(caught.value) and "init" in caught.value.hint
        other = replace(world, root=tmp_path / "other")
        other.root.mkdir()
        (other.root / "key").write_bytes((world.root / "key").read_bytes())
        with other.open() as installation:
            initialise(installation)
        with world.open() as installation, pytest.raises(TargetError) as refused:
            installation.repository("disk")
        assert "is not the one that was there" in str(refused.value)
        # What the user says holds, and is remembered.
        with world.open() as installation:
            initialise(installation)
        for _ in range(2):
            with world.open() as installation:
                installation.repository("disk")


def test_a_bare_machine_takes_what_it_finds(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "nas") as share:
        world = make_world(tmp_path / "world", disk=NasTarget("disk", share / "m"), size=1 << 16)
        world.snapshot()
        for path in sorted((world.root / "state").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        world.verify()
        # Where the state cannot be written nothing is remembered, and nothing fails.
        with replace(world, root=tmp_path / "world").open() as installation:
            object.__setattr__(installation.identities, "state_dir", Path("/proc/nothing"))
            installation.repository("disk")


def test_the_daemon_lives_beside_a_nas_that_hangs_and_goes_on_with_the_disk(
    tmp_path: Path,
) -> None:
    cli = CommandLine(tmp_path, in_process=True)
    model = tmp_path / "model"
    model.mkdir()
    weights = model / "weights.bin"
    weights.write_bytes(random.Random(1).randbytes(100_000))
    with faulty_mount(tmp_path / "share") as mount:
        cli.config.parent.mkdir(parents=True)
        cli.config.write_text(
            f"state_dir: {tmp_path}/state\nkey: {{file: {tmp_path}/key}}\n"
            "limits: {nice: 0, io: none}\n"
            f"targets:\n  disk: {{type: local, path: {tmp_path}/disk}}\n"
            f"  nas: {{type: nas, path: {mount.path}/models, give_up_after: 6s}}\n"
            "policies: {all: {keep_last: 9}}\n"
            f"models: {{m: {{path: {model}, targets: {{disk: all, nas: all}}}}}}\n"
        )
        cli.ok("init")
        cli.ok("snapshot")
        mount.faults(read="hang", write="hang", readdir="hang", open="hang")
        with running(cli, "run") as daemon:

            def status() -> dict[str, object]:
                answer = cli("status", "--json")
                return answer.document if answer.code == 0 else {}

            wait_for(lambda: bool(status().get("running")))
            for version in (2, 3):
                weights.write_bytes(random.Random(version).randbytes(100_000))
                cli("snapshot", "--wait")
                wait_for(lambda v=version: (tmp_path / "disk").exists() and listed(cli, v))
            assert daemon.poll() is None
            wait_for(lambda: "hangs" in str(status().get("models")))
            mount.faults()
            # By itself, when the mount answers again; asked for here, so that nobody has to wait.
            wait_for(lambda: cli("sync", "--to", "nas").code == 0)
            daemon.terminate()
            assert daemon.wait(150) == 0
        cli.ok("check", "--target", "nas", "--read-data")
        assert listed(cli, 3, "nas")


def listed(cli: CommandLine, version: int, target: str = "disk") -> bool:
    found = cli.ok("list", "--json").document["snapshots"]
    return any(one["version"] == version and target in one["targets"] for one in found)
