"""What was scanned on a real filesystem is the same again after its placement on another."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backupd.capture.reading import open_for_capture
from backupd.capture.scan import Scanned, Skipped, scan
from backupd.operations.placement import Placement, RestoreRoot
from backupd.repository.tree import ChunkRef, FileType, TreeEntry

MIB = 1 << 20
EXT4_IOC_SHUTDOWN = 0x8004587D
XFS_IOC_GOINGDOWN = 0x8004587D


@contextmanager
def mounted(base: Path, kind: str) -> Iterator[Path]:
    image, place = base / f"{kind}.img", base / kind
    if not image.exists():
        with image.open("wb") as file:
            file.truncate(400 * MIB)
        subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True)
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def copy(source: Path, destination: Path) -> list[Placement]:
    """Scan, read and place as snapshot and restore do, without a repository between them."""
    notes: list[Skipped] = []
    warned: list[tuple[bytes, str]] = []
    found = []
    with (
        scan(bytes(source)) as scanned,
        RestoreRoot(bytes(destination), warn=lambda *what: warned.append(what)) as root,
    ):
        for one in scanned:
            assert isinstance(one, Scanned), one
            if one.type is FileType.FILE:
                with open_for_capture(scanned, one) as file:
                    metadata = scanned.metadata(
                        one, now_ns=10**20, skipped=notes, fd=file.fd, stat=file.stat
                    )
                    extents = file.extents()
                    size = metadata.size_bytes
                    chunks = (ChunkRef(b"", size),) if size and not extents else ()
                    entry = TreeEntry(one.path, one.type, metadata, b"", chunks, extents=extents)
                    found.append(root.classify(entry))
                    if found[-1] is Placement.SAME:
                        continue
                    with root.begin_file(entry) as placed:
                        for offset, length in extents or ((0, size),):
                            buffer = bytearray(length)
                            assert file.read_into(buffer, offset) == length
                            placed.pwrite(buffer, offset)
                        placed.finish()
                    assert file.unchanged()
                continue
            metadata = scanned.metadata(one, now_ns=10**20, skipped=notes)
            entry = TreeEntry(one.path, one.type, metadata, one.link)
            if one.type is FileType.FOLDER:
                root.make_folder(entry)
                continue
            found.append(root.classify(entry))
            if found[-1] is not Placement.SAME:
                make = root.make_symlink if one.type is FileType.SYMLINK else root.make_hardlink
                make(entry)
        root.finish_folders()
    assert notes == []
    assert warned == []
    return found


def everything(place: Path) -> None:
    """One of each thing that a model folder may hold."""
    (place / "d" / "empty").mkdir(parents=True)
    (place / "dense").write_bytes(os.urandom(9 * MIB + 5))
    (place / "nothing").touch()
    with (place / "sparse").open("wb") as file:
        file.seek(8 * MIB)
        file.write(b"x" * MIB)
        file.truncate(32 * MIB)
    os.link(place / "dense", place / "d" / "again")
    (place / "link").symlink_to("/nowhere/\udcff")
    (place / os.fsdecode(b"\xff\xfe-n\nl")).write_bytes(b"odd")
    (place / "-rf").write_bytes(b"dash")
    os.setxattr(place / "dense", "user.step", b"\0\1")
    os.setxattr(place / "link", "trusted.l", b"1", follow_symlinks=False)
    subprocess.run(["setfacl", "-m", "u:1234:rw", str(place / "-rf")], check=True)
    subprocess.run(["setfacl", "-d", "-m", "g:77:rx", str(place / "d")], check=True)
    os.chown(place / "nothing", 1000, 1001)
    (place / "nothing").chmod(0o6755)
    (place / "d").chmod(0o3770)
    os.chown(place / "link", 7, 8, follow_symlinks=False)
    for number, name in enumerate(["dense", "-rf", "sparse", "link", "d/empty", "d"]):
        ns = 1_500_000_000_000_000_001 + number
        os.utime(place / name, ns=(ns, ns), follow_symlinks=False)


def difference(one: Path, other: Path) -> str:
    """What rsync sees of contents, modes, owners, times, links, ACLs and xattrs."""
    answer = subprocess.run(
        ["rsync", "-ainHAX", "--numeric-ids", "--checksum", "--delete", f"{one}/", f"{other}/"],
        check=True, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    return answer.stdout


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_tree_is_the_same_again_on_another_filesystem(tmp_path: Path, kind: str) -> None:
    with mounted(tmp_path, kind) as place:
        source, back = place / "model", place / "back"
        source.mkdir()
        everything(source)
        assert Placement.SAME not in copy(source, back)
        assert difference(source, back) == ""
        assert (back / "sparse").stat().st_blocks == (source / "sparse").stat().st_blocks
        mtimes = [p.lstat().st_mtime_ns for p in sorted(source.rglob("*"))]
        assert [p.lstat().st_mtime_ns for p in sorted(back.rglob("*"))] == mtimes
        assert set(copy(source, back)) == {Placement.SAME}
        assert difference(source, back) == ""
        assert difference(back, source) == ""


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_after_a_power_loss_nothing_unwritten_is_taken_for_right(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "model"
    source.mkdir()
    for number in range(200):
        (source / f"small{number}").write_bytes(os.urandom(10_000))
    (source / "large").write_bytes(os.urandom(9 * MIB))
    with (source / "sparse").open("wb") as file:
        file.truncate(5 * MIB)
        file.seek(MIB)
        file.write(os.urandom(MIB))
    with mounted(tmp_path, kind) as place:
        copy_without_sync(source, place / "back")
        fd = os.open(place, os.O_RDONLY)
        fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", 1))  # with the journal, without data
        os.close(fd)
    with mounted(tmp_path, kind) as place:
        back = place / "back"
        cut = 0
        with RestoreRoot(bytes(back)) as root, scan(bytes(source)) as scanned:
            for one in scanned:
                if not isinstance(one, Scanned) or one.type is not FileType.FILE:
                    continue
                metadata = scanned.metadata(one, now_ns=0, skipped=[], fd=-1)
                name = os.fsdecode(one.path)
                kind_found = root.classify(TreeEntry(one.path, one.type, metadata))
                if kind_found is Placement.SAME:
                    assert (back / name).read_bytes() == (source / name).read_bytes(), name
                else:
                    cut += 1
        assert (back / "large").read_bytes() == (source / "large").read_bytes()
        assert (back / "sparse").read_bytes() == (source / "sparse").read_bytes()
        assert cut > 0  # or the loss of power lost nothing, and this test says nothing


def copy_without_sync(source: Path, destination: Path) -> None:
    """A restore whose machine dies before its end."""
    real = RestoreRoot.finish_folders
    RestoreRoot.finish_folders = lambda self: None  # type: ignore[method-assign]
    try:
        copy(source, destination)
    finally:
        RestoreRoot.finish_folders = real  # type: ignore[method-assign]
