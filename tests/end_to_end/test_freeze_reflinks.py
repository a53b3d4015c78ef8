"""On xfs and btrfs a snapshot reads clones: what a writer does after the clone is not in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backupd.capture.freeze import Freezer
from backupd.capture.settle import immediate_rules
from backupd.config.settings import ModelSettings
from backupd.operations.settle_plan import Settling
from backupd.operations.snapshot import take_snapshot
from tests.support.world import MODEL, World, make_world, scratch

pytestmark = pytest.mark.system

MIB = 1 << 20
SIZE = 24 * MIB
NOW = Settling(immediate_rules(0.1))


@contextmanager
def mounted(base: Path, kind: str) -> Iterator[Path]:
    image, place = base / f"{kind}.img", base / kind
    with image.open("wb") as file:
        file.truncate(400 * MIB)
    subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(params=["xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path, request.param) as place:
        (place / "runs" / "m").mkdir(parents=True)
        yield place


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "world", size=1000)


def model_on(disk: Path) -> ModelSettings:
    return ModelSettings(MODEL, disk / "runs" / "m", {"disk": ()}, settle_seconds=0.1)


def used_bytes(disk: Path) -> int:
    os.sync()
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_a_file_overwritten_in_place_after_the_clone_is_held_as_it_was(
    world: World, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first byte that is read on, a writer overwrites the file again and again."""
    from backupd.operations.tree_sink import TreeSink

    path = disk / "runs" / "m" / "last.bin"
    path.write_bytes(b"\1" * SIZE)
    read = TreeSink.read
    writing = threading.Event()
    over = threading.Event()

    def write() -> None:
        number = 1
        while not over.is_set():
            number = number % 250 + 1
            with path.open("r+b") as file:
                file.write(bytes([number]) * SIZE)
            writing.set()

    thread = threading.Thread(target=write)

    def reading(sink: TreeSink, *given: object) -> object:
        if not thread.is_alive() and not over.is_set():
            thread.start()
            assert writing.wait(30)
        return read(sink, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(TreeSink, "read", reading)
    try:
        with world.open() as installation:
            report = take_snapshot(installation, model_on(disk), settling=NOW)
    finally:
        over.set()
        thread.join()
    assert not report.partial and report.snapshot is not None
    with scratch(world.root / "out") as out:
        world.restore(report.snapshot.version, out)
        assert (out / "last.bin").read_bytes() == b"\1" * SIZE


def test_every_file_of_a_set_is_of_the_moment_before_the_first_was_read(
    world: World, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All shards are cloned before any is read, so that they are of one checkpoint."""
    from backupd.operations.tree_sink import TreeSink

    folder = disk / "runs" / "m"
    shards = [folder / f"model-{n:05d}-of-00003.gguf" for n in (1, 2, 3)]
    for shard in shards:
        shard.write_bytes(b"\1" * (4 * MIB))
    read = TreeSink.read

    def reading(sink: TreeSink, *given: object) -> object:
        for shard in shards:
            with shard.open("r+b") as file:
                file.write(b"\2" * (4 * MIB))
        return read(sink, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(TreeSink, "read", reading)
    with world.open() as installation:
        report = take_snapshot(installation, model_on(disk), settling=NOW)
    assert not report.partial and report.snapshot is not None
    with scratch(world.root / "out") as out:
        world.restore(report.snapshot.version, out)
        assert {(out / shard.name).read_bytes()[:1] for shard in shards} == {b"\1"}


def test_no_clone_is_left_behind_after_kill_9(disk: Path) -> None:
    path = disk / "runs" / "m" / "last.bin"
    path.write_bytes(os.urandom(SIZE))
    names = sorted(disk.rglob("*"))
    before = used_bytes(disk)
    program = (
        "import os, sys, time\n"
        "from backupd.capture.freeze import Freezer\n"
        "freezer = Freezer(os.fsencode(sys.argv[1]))\n"
        "fd = os.open(sys.argv[1] + '/last.bin', os.O_RDONLY)\n"
        "copies = [freezer.clone(fd) for _ in range(4)]\n"
        "print(copies.count(None), flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path.parent)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        # Written over, the old blocks are the clones' alone, and would be seen.
        path.write_bytes(os.urandom(SIZE))
        assert used_bytes(disk) - before > SIZE // 2
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while used_bytes(disk) - before > SIZE // 4 and time.monotonic() < deadline:
        time.sleep(0.2)  # btrfs frees in the background
    assert used_bytes(disk) - before <= SIZE // 4
    assert sorted(disk.rglob("*")) == names


def test_a_clone_does_not_follow_the_file(disk: Path) -> None:
    path = disk / "runs" / "m" / "last.bin"
    path.write_bytes(b"\1" * MIB)
    freezer = Freezer(bytes(path.parent))
    with path.open("r+b") as file:
        copy = freezer.clone(file.fileno())
        assert copy is not None
        file.write(b"\2" * MIB)
        file.truncate(10)
        file.flush()
        assert os.pread(copy, MIB, 0) == b"\1" * MIB
        os.close(copy)
    freezer.close()
    assert not freezer.able


def test_where_there_are_no_reflinks_the_file_itself_is_read(tmp_path: Path) -> None:
    place = tmp_path / "memory"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], check=True)
    try:
        (place / "last.bin").write_bytes(b"\1" * MIB)
        freezer = Freezer(bytes(place))
        with (place / "last.bin").open("rb") as file:
            assert freezer.clone(file.fileno()) is None
        assert not freezer.able
        freezer.close()
    finally:
        subprocess.run(["umount", str(place)], check=True)
