"""A NAS target on a real mount that comes, goes and loses what was written to it."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from backupd.config.settings import NasTarget
from backupd.errors import TargetUnreachableError
from backupd.targets.nas import MountTarget, create_mounted_folder
from backupd.targets.open import open_target, prepare_target
from tests.targets.conftest import mounted_tmpfs


def test_nothing_is_written_where_the_mount_is_absent(tmp_path: Path) -> None:
    share = tmp_path / "nas" / "models"
    share.mkdir(parents=True)
    target = MountTarget("nas", share)
    for operation in (
        lambda: target.put("index/a", [b"x"]),
        lambda: target.put_if_absent("index/a", [b"x"]),
        lambda: target.get("index/a", 1),
        lambda: target.stat("index/a"),
        lambda: list(target.list("index/")),
        lambda: target.delete("index/a"),
        lambda: prepare_target(NasTarget("nas", share)),
        lambda: create_mounted_folder("nas", share / "deeper"),
    ):
        with pytest.raises(TargetUnreachableError, match="nothing is mounted at") as caught:
            operation()
        assert str(share) in str(caught.value)
        assert "require_mount" in caught.value.hint
    assert list(share.iterdir()) == []


def test_a_mount_that_goes_away_is_noticed_by_the_next_operation(tmp_path: Path) -> None:
    mount = tmp_path / "nas"
    with mounted_tmpfs(mount):
        prepare_target(NasTarget("nas", mount / "models"))
        target = MountTarget("nas", mount / "models")
        target.put("index/a", [b"x"])
    (mount / "models").mkdir()
    with pytest.raises(TargetUnreachableError, match="nothing is mounted"):
        target.put("index/b", [b"x"])
    assert list((mount / "models").iterdir()) == []
    (mount / "models").rmdir()
    with pytest.raises(TargetUnreachableError, match="no such folder"):
        target.put("index/b", [b"x"])
    with mounted_tmpfs(mount):
        (mount / "models").mkdir()
        target.put("index/c", [b"x"])
        assert [info.name for info in target.list("")] == ["index/c"]


def test_between_operations_a_writer_does_not_hold_the_mount_busy(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "nas") as mount:
        target = MountTarget("nas", mount)
        target.put("index/a", [b"x"])
        assert [info.name for info in target.list("")] == ["index/a"]
        subprocess.run(["umount", str(mount)], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(mount)], check=True)


def test_a_bind_mount_of_the_same_disk_is_a_mount(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    share = tmp_path / "nas"
    share.mkdir()
    subprocess.run(["mount", "--bind", str(tmp_path / "export"), str(share)], check=True)
    try:
        MountTarget("nas", share).put("index/a", [b"x"])
        assert (tmp_path / "export/index/a").read_bytes() == b"x"
    finally:
        subprocess.run(["umount", str(share)], check=True)
    with pytest.raises(TargetUnreachableError):
        MountTarget("nas", share).stat("index/a")


def test_a_plain_folder_serves_where_no_mount_is_required(tmp_path: Path) -> None:
    settings = NasTarget("nas", tmp_path / "new" / "models", require_mount=False)
    prepare_target(settings)
    target = open_target(settings)
    target.put("index/a", [b"x"])
    assert target.get("index/a", 1) == b"x"


def test_an_object_whose_bytes_did_not_reach_the_server_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted_tmpfs(tmp_path / "nas") as mount:
        target = MountTarget("nas", mount)
        real_rename = os.rename

        def losing_rename(source: str, name: str, **options: int) -> None:
            real_rename(source, name, **options)
            os.truncate(mount / name, 3)

        monkeypatch.setattr(os, "rename", losing_rename)
        with pytest.raises(TargetUnreachableError, match=r"of the 5 bytes.*shows 3"):
            target.put("index/a", [b"12345"])


def test_an_error_that_only_close_tells_fails_the_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted_tmpfs(tmp_path / "nas") as mount:
        target = MountTarget("nas", mount)
        target.put("index/a", [b"x"])
        real_close = os.close

        def failing_close(descriptor: int) -> None:
            temporary = "/.tmp/" in os.readlink(f"/proc/self/fd/{descriptor}")
            real_close(descriptor)
            if temporary:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "close", failing_close)
        with pytest.raises(TargetUnreachableError, match="index/b"):
            target.put("index/b", [b"x"])
        monkeypatch.undo()
        assert [info.name for info in target.list("")] == ["index/a"]
        assert list((mount / ".tmp").iterdir()) == []


def test_a_stale_handle_is_opened_anew_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted_tmpfs(tmp_path / "nas") as mount:
        target = MountTarget("nas", mount)
        target.put("packs/aa/a", [b"bytes"])
        buffer = bytearray(5)
        target.read_into("packs/aa/a", 0, memoryview(buffer))
        real_read = os.preadv
        stale = 1

        def read(descriptor: int, views: list[memoryview], offset: int) -> int:
            nonlocal stale
            if stale:
                stale -= 1
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return real_read(descriptor, views, offset)

        monkeypatch.setattr(os, "preadv", read)
        buffer[:] = b"-----"
        target.read_into("packs/aa/a", 0, memoryview(buffer))
        assert buffer == b"bytes"
        stale = 2
        with pytest.raises(TargetUnreachableError, match="Stale file handle"):
            target.read_into("packs/aa/a", 0, memoryview(buffer))
        monkeypatch.undo()
        target.close()


def test_an_object_created_just_before_the_handle_went_stale_is_this_calls_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted_tmpfs(tmp_path / "nas") as mount:
        target = open_target(NasTarget("nas", mount))
        target.put("snapshots/m/1", [b"x"])
        real_flush = os.fsync
        stale = 1

        def flush(descriptor: int) -> None:
            nonlocal stale
            if stale and os.readlink(f"/proc/self/fd/{descriptor}").endswith("/m"):
                stale -= 1
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            real_flush(descriptor)

        monkeypatch.setattr(os, "fsync", flush)
        assert target.put_if_absent("snapshots/m/2", [b"mine"])
        assert not stale
        assert not target.put_if_absent("snapshots/m/2", [b"other"])
        target.close()
