"""Folder targets on real disks that are full, read-only, absent or were left by a crash."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from backupd.errors import (
    BackupdError,
    ObjectMissingError,
    TargetError,
    TargetFullError,
    TargetReadOnlyError,
    TargetUnreachableError,
)
from backupd.targets import exclusive, folders
from backupd.targets.local import FolderTarget, create_folder
from tests.targets.conftest import mounted_tmpfs

MiB = 1 << 20
DAY = 86_400


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "small", "size=2m") as disk:
        target = FolderTarget("disk", disk)
        target.put("packs/aa/kept", [b"k" * MiB])
        for put in (target.put, target.put_if_absent):
            with pytest.raises(
                TargetFullError, match=r"target 'disk' is full.*packs/aa/big"
            ) as caught:
                put("packs/aa/big", [b"x" * (3 * MiB // 2)])
            assert "prune" in caught.value.hint
        assert files_below(disk) == ["packs/aa/kept"]
        assert target.get("packs/aa/kept", MiB) == b"k" * MiB
        target.delete("packs/aa/kept")
        target.put("packs/aa/big", [b"x" * (3 * MiB // 2)])
        target.close()


def test_a_disk_without_free_inodes_is_full(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "inodes", "size=8m,nr_inodes=16") as disk:
        target = FolderTarget("disk", disk)
        with pytest.raises(TargetFullError) as caught:
            for number in range(20):
                target.put(f"index/{number}", [b"x"])
        assert "inodes" in caught.value.hint
        assert not any(name.startswith(".tmp") for name in files_below(disk))
        # One inode goes into each object; its folder and the temporaries' came first.
        assert len(list(target.list("index/"))) > 5


def test_a_disk_that_turns_read_only_is_said_and_still_read(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "ro") as disk:
        target = FolderTarget("disk", disk)
        target.put("index/a", [b"before"])
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for write in (
            lambda: target.put("index/b", [b"x"]),
            lambda: target.put_if_absent("index/b", [b"x"]),
            lambda: target.put("new/b", [b"x"]),
            lambda: target.delete("index/a"),
        ):
            with pytest.raises(TargetReadOnlyError, match="target 'disk' is read-only") as caught:
                write()
            assert "writable" in caught.value.hint
        assert target.get("index/a", 10) == b"before"
        assert [info.name for info in target.list("")] == ["index/a"]
        target.close()


def test_every_operation_names_a_folder_that_is_not_there(tmp_path: Path) -> None:
    target = FolderTarget("disk", tmp_path / "unplugged")
    for operation in (
        lambda: target.put("a", [b""]),
        lambda: target.put_if_absent("a", [b""]),
        lambda: target.get("a", 1),
        lambda: target.read_into("a", 0, memoryview(bytearray(1))),
        lambda: target.stat("a"),
        lambda: list(target.list("packs/")),
        lambda: target.delete("a"),
    ):
        with pytest.raises(
            TargetUnreachableError, match=r"disk.*unplugged.*no such folder"
        ) as caught:
            operation()
        assert "backupd init" in caught.value.hint
    assert not (tmp_path / "unplugged").exists()


def test_a_file_where_the_folder_should_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(TargetUnreachableError, match="not a folder"):
        FolderTarget("disk", tmp_path / "file").stat("a")
    with pytest.raises(TargetError, match="file"):
        create_folder("disk", tmp_path / "file")


def test_another_user_without_rights_is_told_which_path(tmp_path: Path) -> None:
    create_folder("disk", tmp_path / "disk")
    os.chmod(tmp_path, 0o755)
    for above in tmp_path.parents:
        if above.stat().st_uid == os.geteuid() and str(above).startswith("/tmp/"):
            above.chmod(0o755)
    target = FolderTarget("disk", tmp_path / "disk")
    target.put("index/a", [b"x"])
    target.close()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            words = []
            for operation in (
                lambda: target.put("index/b", [b""]),
                lambda: target.get("index/a", 9),
            ):
                try:
                    operation()
                except BackupdError as error:
                    words.append(f"{type(error).__name__}: {error} ({error.hint})")
            os.write(writer, "\n".join(words).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        first, second = answers.read().splitlines()
    os.waitpid(child, 0)
    assert first.startswith("TargetReadOnlyError: target 'disk'")
    assert second.startswith("TargetError: target 'disk'")
    for said in (first, second):
        assert "disk" in said
        assert "Permission denied" in said
        assert "user that backupd runs as" in said


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o777])
def test_modes_are_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        create_folder("disk", tmp_path / "disk")
        target = FolderTarget("disk", tmp_path / "disk")
        target.put("packs/aa/a", [b"x"])
        assert target.put_if_absent("snapshots/m/1", [b"x"])
    finally:
        os.umask(before)
    for path in (tmp_path / "disk", *(tmp_path / "disk").rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_what_crashed_writers_left_is_never_listed_and_cleared_after_a_day(
    folder_target: FolderTarget, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    temporaries = disk / folders.TEMPORARY
    temporaries.mkdir(mode=0o700)
    (temporaries / "old").write_bytes(b"half of a pack")
    (temporaries / "recent").write_bytes(b"half of a pack")
    now = (temporaries / "recent").stat().st_mtime
    os.utime(temporaries / "old", (now - DAY - 60, now - DAY - 60))
    os.utime(temporaries / "recent", (now - DAY + 600, now - DAY + 600))
    assert list(folder_target.list("")) == []
    folder_target.put("index/a", [b"x"])
    assert files_below(disk) == [".tmp/recent", "index/a"]


def test_a_writer_that_is_killed_leaves_no_object(
    folder_target: FolderTarget, tmp_path: Path
) -> None:
    folder_target.put("index/whole", [b"x"])
    child = os.fork()
    if not child:
        os.fsync = lambda _: os._exit(9)
        folder_target.put("index/torn", [b"y" * MiB])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert [info.name for info in folder_target.list("")] == ["index/whole"]
    assert len(files_below(tmp_path / "disk")) == 2
    assert folder_target.put_if_absent("index/torn", [b"z"])


@pytest.mark.parametrize("limit", [1, 7, 4096, 100_000])
def test_writes_that_take_only_a_part_store_every_byte(
    folder_target: FolderTarget, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    whole_write = os.writev

    def short_write(descriptor: int, views: list[memoryview]) -> int:
        return whole_write(descriptor, [memoryview(b"".join(views))[:limit]])

    def short_read(descriptor: int, views: list[memoryview], offset: int) -> int:
        return whole_read(descriptor, [views[0][:limit]], offset)

    whole_read = os.preadv
    monkeypatch.setattr(os, "writev", short_write)
    monkeypatch.setattr(os, "preadv", short_read)
    data = os.urandom(1500)
    folder_target.put("packs/aa/short", [data[:1], b"", data[1:700], data[700:]])
    assert folder_target.get("packs/aa/short", 2000) == data


def test_each_object_and_each_new_folder_is_flushed_before_put_returns(
    folder_target: FolderTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    real_flush = os.fsync

    def flush(descriptor: int) -> None:
        flushed.append(
            os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), tmp_path / "disk")
        )
        real_flush(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    folder_target.put("packs/aa/one", [b"x"])
    assert flushed[0] == "."
    assert flushed[1].startswith(".tmp/")
    assert flushed[2:] == [".", "packs", "packs/aa"]
    flushed.clear()
    assert folder_target.put_if_absent("packs/aa/two", [b"x"])
    assert flushed[0].startswith(".tmp/")
    assert flushed[1:] == ["packs/aa"]


def test_reading_goes_on_while_more_files_are_read_than_are_kept_open(
    folder_target: FolderTarget,
) -> None:
    for number in range(80):
        folder_target.put(f"packs/aa/{number}", [bytes([number]) * 1000])
    opened = len(os.listdir("/proc/self/fd"))
    wrong: list[int] = []

    def read(start: int) -> None:
        buffer = bytearray(1000)
        for turn in range(300):
            number = (start * 7 + turn * 3) % 80
            folder_target.read_into(f"packs/aa/{number}", 0, memoryview(buffer))
            if buffer != bytes([number]) * 1000:
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(os.listdir("/proc/self/fd")) <= opened + 32
    folder_target.close()
    assert len(os.listdir("/proc/self/fd")) <= opened


def test_a_file_that_another_process_deleted_or_replaced_is_not_read_from_memory(
    folder_target: FolderTarget, tmp_path: Path
) -> None:
    buffer = bytearray(3)
    other = FolderTarget("other", tmp_path / "disk")
    folder_target.put("index/a", [b"old"])
    folder_target.read_into("index/a", 0, memoryview(buffer))
    other.put("index/a", [b"new"])
    folder_target.read_into("index/a", 0, memoryview(buffer))
    assert buffer == b"new"
    other.delete("index/a")
    with pytest.raises(ObjectMissingError):
        folder_target.read_into("index/a", 0, memoryview(buffer))


def test_what_is_no_object_is_neither_listed_nor_read(
    folder_target: FolderTarget, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    (disk / "lost+found").mkdir()
    (disk / "lost+found" / "1234").write_text("by fsck")
    (disk / "index").mkdir()
    (disk / "index" / "Notes.TXT").write_text("by hand")
    (disk / "index" / ".nfs0001").write_text("by nfs")
    (disk / "index" / "folder").mkdir()
    os.symlink("/etc/hostname", disk / "index" / "link")
    os.mkfifo(disk / "index" / "pipe")
    assert list(folder_target.list("")) == []
    for name in ("index/folder", "index/link", "index/pipe"):
        assert folder_target.stat(name) is None
        with pytest.raises(ObjectMissingError):
            folder_target.get(name, 10)


def test_folders_removed_by_hand_are_made_again(
    folder_target: FolderTarget, tmp_path: Path
) -> None:
    folder_target.put("packs/aa/one", [b"x"])
    subprocess.run(
        ["rm", "-r", str(tmp_path / "disk/packs"), str(tmp_path / "disk/.tmp")], check=True
    )
    folder_target.put("packs/aa/two", [b"y"])
    assert [info.name for info in folder_target.list("")] == ["packs/aa/two"]


def test_a_claim_whose_writer_died_is_named_and_swept_after_a_day(
    folder_target: FolderTarget, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    folder_target.put("snapshots/m/1", [b"x"])
    claim = disk / folders.TEMPORARY / "snapshots~m~2"
    claim.touch()
    (disk / folders.TEMPORARY / "mine").write_bytes(b"mine")
    root = os.open(disk, os.O_RDONLY)
    waits: list[float] = []
    try:
        with pytest.raises(TargetUnreachableError, match="snapshots/m/2 is being stored"):
            exclusive.claim_and_rename(root, ".tmp/mine", "snapshots/m/2", sleep=waits.append)
        assert sum(waits) == pytest.approx(10, abs=0.1)
        os.utime(claim, (1e9, 1e9))
        FolderTarget("later", disk).put("index/a", [b"x"])
        assert not claim.exists()
        assert exclusive.claim_and_rename(root, ".tmp/mine", "snapshots/m/2")
    finally:
        os.close(root)
    assert folder_target.get("snapshots/m/2", 10) == b"mine"


def test_a_link_whose_answer_was_lost_counts_as_made(
    folder_target: FolderTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_link = os.link

    def link_twice(*args: object, **options: object) -> None:
        real_link(*args, **options)  # type: ignore[arg-type]
        real_link(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", link_twice)
    assert folder_target.put_if_absent("snapshots/m/1", [b"mine"])
    assert not folder_target.put_if_absent("snapshots/m/1", [b"other"])
    assert folder_target.get("snapshots/m/1", 10) == b"mine"


def test_a_failing_flush_is_an_unreachable_target_and_leaves_nothing(
    folder_target: FolderTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    folder_target.put("index/a", [b"x"])
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(TargetUnreachableError, match="index/b cannot be written to: Input/output"):
        folder_target.put("index/b", [b"x"])
    assert files_below(tmp_path / "disk") == ["index/a"]


def test_what_was_put_outlives_a_power_cut(tmp_path: Path) -> None:
    image, disk = tmp_path / "image", tmp_path / "ext4"
    with image.open("wb") as file:
        file.truncate(64 * MiB)
    disk.mkdir()
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
    try:
        target = FolderTarget("disk", disk / "models")
        create_folder("disk", disk / "models")
        for number in range(20):
            target.put(f"packs/{number:02x}/pack", [bytes([number]) * 50_000])
            assert target.put_if_absent(f"snapshots/{number}/1", [b"%d" % number])
        (disk / "unflushed").write_bytes(b"x" * 50_000)
        target.close()
        cut_power(disk)
        with pytest.raises(TargetUnreachableError):
            target.put("index/a", [b"x"])
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
    try:
        unflushed = disk / "unflushed"
        assert not unflushed.exists() or not unflushed.stat().st_size
        for number in range(20):
            data = target.get(f"packs/{number:02x}/pack", 50_000)
            assert data == bytes([number]) * 50_000
            assert target.get(f"snapshots/{number}/1", 9) == b"%d" % number
        target.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def cut_power(disk: Path) -> None:
    """Stop the ext4 on `disk` without flushing anything: EXT4_IOC_SHUTDOWN, NOLOGFLUSH."""
    root = os.open(disk, os.O_RDONLY)
    try:
        fcntl.ioctl(root, 0x8004587D, struct.pack("I", 2))
    finally:
        os.close(root)
