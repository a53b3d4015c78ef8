"""`switch` on real filesystems: clones where they exist, and a mount point refused."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backupd.config.settings import LocalTarget
from backupd.errors import BackupdError
from tests.support.switching import switched, two_versions
from tests.support.world import manifest_of

MIB = 1 << 20
SIZE = {"xfs": 400 * MIB, "btrfs": 200 * MIB, "ext4": 64 * MIB}


@contextmanager
def mounted(base: Path, kind: str) -> Iterator[Path]:
    image, place = base / f"{kind}.img", base / kind
    with image.open("wb") as file:
        file.truncate(SIZE[kind])
    subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_unchanged_files_are_cloned_where_that_is_possible(tmp_path: Path, kind: str) -> None:
    with mounted(tmp_path, kind) as place:
        world = two_versions(place / "world")
        big = world.model_path / "big.bin"
        big.write_bytes(random.Random(1).randbytes(3 * MIB))
        world.snapshot()
        (world.model_path / "moved").mkdir()
        big.rename(world.model_path / "moved" / "big.bin")
        world.snapshot()
        inode = (world.model_path / "moved" / "big.bin").stat().st_ino
        report = switched(world, "v3", force=True)
        assert manifest_of(world.model_path) == world.expected[3], "a moved file is taken as well"
        assert report.fetched.files == 0
        assert report.copied.files == 0
        assert report.shared.size_bytes > 3 * MIB
        report = switched(world, "v4")
        assert manifest_of(world.model_path) == world.expected[4]
        after = (world.model_path / "moved" / "big.bin").stat()
        assert after.st_ino != inode
        assert after.st_nlink == 1
        # Overwritten in place, as last.pt is: nothing else may change with it.
        report = switched(world, "v3")
        with big.open("r+b") as file:
            file.write(b"overwritten")
        world.snapshot()
        report = switched(world, "v3")
        assert manifest_of(world.model_path) == world.expected[3]
        assert report.version.version == 3
        world.verify()


def test_mount_points_of_all_kinds_are_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    world = two_versions(tmp_path / "world")
    with mounted(tmp_path, "ext4") as disk:
        shutil.copytree(world.model_path, disk / "model", symlinks=True)
        inner = world.model_path / "logs"
        subprocess.run(["mount", "--bind", str(disk / "model"), str(world.model_path)], check=True)
        try:
            with pytest.raises(BackupdError, match="is where a filesystem is mounted"):
                switched(world, "v1")
        finally:
            subprocess.run(["umount", str(world.model_path)], check=True)
        subprocess.run(["mount", "--bind", str(disk), str(inner)], check=True)
        try:
            with pytest.raises(BackupdError, match="another filesystem is mounted at logs"):
                switched(world, "v1")
        finally:
            subprocess.run(["umount", str(inner)], check=True)
    # Of the same filesystem only the kernel knows.
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(world.model_path, elsewhere, symlinks=True)
    subprocess.run(["mount", "--bind", str(elsewhere), str(world.model_path)], check=True)
    try:
        with pytest.raises(BackupdError, match=r"cannot be put aside|is where a filesystem"):
            switched(world, "v1")
        assert [name for name in os.listdir(world.root) if name.startswith(".backupd")] == []
    finally:
        subprocess.run(["umount", str(world.model_path)], check=True)
    assert manifest_of(world.model_path) == world.expected[2]


def test_a_disk_without_room_for_the_version_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    world = two_versions(tmp_path / "world")
    (world.model_path / "huge").write_bytes(random.Random(1).randbytes(30 * MIB))
    world.snapshot()
    assert isinstance(world.targets["disk"], LocalTarget)
    with mounted(tmp_path, "ext4") as disk:
        moved = disk / "model"
        (world.model_path / "huge").unlink()
        world.snapshot()
        shutil.move(world.model_path, moved)
        world.model_path.symlink_to(moved)
        (disk / "filler").write_bytes(bytes(34 * MIB))
        before = manifest_of(moved)
        with pytest.raises(BackupdError, match=r"[Nn]o (room|space)"):
            switched(world, "v3")
        assert manifest_of(moved) == before
        assert sorted(os.listdir(disk)) == ["filler", "lost+found", "model"]
        (disk / "filler").unlink()
        switched(world, "v3")
        assert (moved / "huge").stat().st_size == 30 * MIB
