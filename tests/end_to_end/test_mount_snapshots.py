"""Snapshots as folders: what is seen there is what was stored; damage is an error, never bytes."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.errors import EXIT_FAILED
from backupd.operations.browsing import SnapshotFolders
from tests.rigs.command_line import CommandLine


@pytest.fixture(scope="module")
def backupd(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """Two versions of a model with links, holes, xattrs and odd names."""
    home = tmp_path_factory.mktemp("home")
    made = CommandLine(home, in_process=True)
    made.ok("quickstart", "--once")
    model = home / ".local/share/backupd/sample-model"
    rng = random.Random(3)
    (model / "large.bin").write_bytes(rng.randbytes(11_000_000))
    os.link(model / "large.bin", model / "again.bin")
    with (model / "holes.dat").open("wb") as file:
        file.truncate(9_000_000)
        file.seek(2_000_000)
        file.write(rng.randbytes(100_000))
        file.seek(7_000_000)
        file.write(rng.randbytes(50_000))
    (model / os.fsdecode(b"caf\xe9 \xff")).write_bytes(b"odd")
    (model / "empty").mkdir()
    (model / "leads").symlink_to("empty")
    os.setxattr(model / "config.json", b"user.note", b"kept")
    made.ok("snapshot")
    return made


@pytest.fixture
def model(backupd: CommandLine) -> Path:
    return backupd.home / ".local/share/backupd/sample-model"


@pytest.fixture
def mounted(backupd: CommandLine, tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "mnt"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "backupd", "mount", str(folder)],
        env=backupd.environment(),
        stderr=(tmp_path / "said").open("w"),
    )
    try:
        end = time.monotonic() + 150
        while not folder.is_mount():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        assert process.wait(120) == 0
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)
        process.kill()
        process.wait()


def test_each_version_is_a_folder_that_equals_what_was_stored(mounted: Path, model: Path) -> None:
    assert sorted(os.listdir(mounted)) == ["sample-model"]
    versions = mounted / "sample-model"
    assert sorted(os.listdir(versions)) == ["latest", "v1", "v2"]
    latest = versions / "latest"
    assert latest.readlink() == Path("v2")
    subprocess.run(["diff", "-r", "--no-dereference", str(latest) + "/", str(model)], check=True)
    for name in ("config.json", "holes.dat", "leads", "checkpoint-100"):
        seen, kept = (latest / name).lstat(), (model / name).lstat()
        assert seen.st_mode == kept.st_mode
        assert seen.st_size == kept.st_size or (latest / name).is_dir()
        assert seen.st_mtime_ns == kept.st_mtime_ns
    assert os.getxattr(latest / "config.json", b"user.note") == b"kept"
    assert os.listxattr(latest / "config.json") == ["user.note"]
    assert not (versions / "v1/large.bin").exists()


def test_nothing_in_it_can_be_changed(mounted: Path) -> None:
    for change in (
        lambda: (mounted / "sample-model/v1/config.json").write_bytes(b"x"),
        lambda: (mounted / "sample-model/v1/config.json").unlink(),
        lambda: (mounted / "new").mkdir(),
    ):
        with pytest.raises(OSError) as refused:
            change()
        assert refused.value.errno == errno.EROFS
    with pytest.raises(FileNotFoundError):
        os.listdir(mounted / "sample-model/v9")


def test_any_run_of_a_file_is_what_is_there_in_the_model(backupd: CommandLine, model: Path) -> None:
    from backupd.config.load import load_config
    from backupd.operations.installation import open_installation

    environment = backupd.environment()
    settings = load_config(backupd.config, environment)
    rng = random.Random(5)
    with open_installation(settings, environment=environment, clock=time.time) as installation:
        folders = SnapshotFolders(installation, monotonic=time.monotonic, note=print)
        for name in ("large.bin", "holes.dat", "again.bin", "config.json"):
            content = (model / name).read_bytes()
            file = folders.open(b"sample-model/v2/" + name.encode())
            for _ in range(60):
                offset, size = rng.randrange(len(content) + 10), rng.randrange(5_000_000)
                assert folders.read(file, offset, size) == content[offset : offset + size]


def test_a_damaged_chunk_is_an_error_and_the_rest_can_be_read(
    backupd: CommandLine, mounted: Path, tmp_path: Path
) -> None:
    largest = max(backupd.repository.glob("packs/*/*"), key=lambda path: path.stat().st_size)
    whole = largest.read_bytes()
    os.chmod(largest, 0o600)
    largest.write_bytes(bytes(byte ^ 1 for byte in whole[:100_000]) + whole[100_000:])
    try:
        with pytest.raises(OSError) as failed:
            (mounted / "sample-model/v2/large.bin").read_bytes()
        assert failed.value.errno == errno.EIO
        assert "is damaged" in (tmp_path / "said").read_text()
        assert (mounted / "sample-model/v2/config.json").read_bytes()
    finally:
        largest.write_bytes(whole)


def test_what_cannot_be_mounted_on_is_refused(backupd: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    absent = backupd.process("mount", tmp_path / "absent")
    assert absent.code == EXIT_FAILED and "is no folder" in absent.err
    full = backupd.process("mount", tmp_path)
    assert full.code == EXIT_FAILED and "is not empty" in full.err
