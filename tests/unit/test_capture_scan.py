"""A scan names everything in a model's folder once, in order, and never looks outside."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.capture.metadata import XATTRS_LIMIT_BYTES
from backupd.capture.reading import open_for_capture
from backupd.capture.scan import LeftOutError, Scanned, ScanOptions, SkipKind, Skipped, scan
from backupd.errors import BackupdError
from backupd.repository.tree import FileType, Metadata

LATER_NS = 10**20


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder on tmpfs, for what makes many files."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="backupd-scan-"))
    yield folder
    shutil.rmtree(folder)


def scanned(root: Path) -> dict[bytes, Scanned]:
    with scan(bytes(root)) as found:
        return {entry.path: entry for entry in found if isinstance(entry, Scanned)}


def skipped(root: Path, options: ScanOptions | None = None) -> dict[bytes, SkipKind]:
    with scan(bytes(root), options) as found:
        return {entry.path: entry.kind for entry in found if isinstance(entry, Skipped)}


def metadata(root: Path, path: bytes, now_ns: int = LATER_NS) -> tuple[Metadata, list[Skipped]]:
    notes: list[Skipped] = []
    with scan(bytes(root)) as found:
        entry = next(e for e in found if isinstance(e, Scanned) and e.path == path)
        if entry.type is FileType.FILE:
            with open_for_capture(found, entry) as file:
                kept = found.metadata(
                    entry, now_ns=now_ns, skipped=notes, fd=file.fd, stat=file.stat
                )
        else:
            kept = found.metadata(entry, now_ns=now_ns, skipped=notes)
    return kept, notes


def test_paths_come_in_byte_order_with_a_folder_before_its_content(tmp_path: Path) -> None:
    for name in ["a", "a-b", "a/z", "a/b", "a.d", "b/c/d", "b-", "b0"]:
        place = tmp_path / name
        if name in ("a", "b-"):
            place.mkdir()
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
    paths = list(scanned(tmp_path))
    assert paths == sorted(paths)
    assert paths[0] == b""
    assert set(paths) == {b"", b"a", b"a-b", b"a/z", b"a/b", b"a.d", b"b", b"b/c", b"b/c/d",
                          b"b-", b"b0"}  # fmt: skip


def test_what_stat_tells_is_kept_to_the_nanosecond(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"12345")
    file.chmod(0o4751)
    os.chown(file, 12345, 0)
    file.chmod(0o4751)
    os.utime(file, ns=(1, 1_234_567_890_123_456_789))
    kept, notes = metadata(tmp_path, b"f")
    assert (stat.S_IMODE(kept.mode), kept.uid, kept.gid) == (0o4751, 12345, 0)
    assert (kept.user, kept.group) == ("", "root")
    assert kept.mtime_ns == 1_234_567_890_123_456_789
    assert (kept.inode, kept.size_bytes) == (file.stat().st_ino, 5)
    assert kept.ctime_ns == file.stat().st_ctime_ns
    assert notes == []


def test_a_ctime_too_young_to_be_trusted_is_kept_as_zero(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    ctime_ns = (tmp_path / "f").stat().st_ctime_ns
    assert metadata(tmp_path, b"f", now_ns=ctime_ns + 1_000_000)[0].ctime_ns == 0
    assert metadata(tmp_path, b"f", now_ns=ctime_ns + 3_000_000_000)[0].ctime_ns == ctime_ns


def test_awkward_names_are_kept_as_bytes(tmp_path: Path) -> None:
    names = [b"\xff\xfe", b"new\nline", b"-rf", b" ", b"\xc3\xa9", b"e\xcc\x81", b"*", b"x" * 255]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    assert set(scanned(tmp_path)) == {b"", *names}
    with scan(bytes(tmp_path)) as found:
        for entry in found:
            if entry.path:
                assert isinstance(entry, Scanned)
                with open_for_capture(found, entry) as file:
                    buffer = bytearray(300)
                    count = file.read_into(buffer, 0)
                    assert bytes(buffer[:count]) == entry.path


def test_symlinks_are_kept_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "raw").symlink_to(os.fsdecode(b"\xff/../x"))
    found = scanned(tmp_path)
    assert {path: entry.link for path, entry in found.items() if path} == {
        b"out": b"/etc", b"loop": b"loop", b"raw": b"\xff/../x",
    }  # fmt: skip
    assert {found[p].type for p in (b"out", b"loop", b"raw")} == {FileType.SYMLINK}


def test_later_paths_of_an_inode_are_hard_links_to_the_first(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "b").write_bytes(b"x")
    os.link(tmp_path / "b", tmp_path / "d" / "c")
    os.link(tmp_path / "b", tmp_path / "a")
    (tmp_path / "s").symlink_to("a")
    os.link(tmp_path / "s", tmp_path / "t", follow_symlinks=False)
    found = scanned(tmp_path)
    assert found[b"a"].type is FileType.FILE
    assert (found[b"b"].type, found[b"b"].link) == (FileType.HARDLINK, b"a")
    assert (found[b"d/c"].type, found[b"d/c"].link) == (FileType.HARDLINK, b"a")
    assert (found[b"s"].type, found[b"s"].link) == (FileType.SYMLINK, b"a")
    assert (found[b"t"].type, found[b"t"].link) == (FileType.HARDLINK, b"s")


def test_when_a_first_link_could_not_be_stored_the_next_one_is_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    os.link(tmp_path / "a", tmp_path / "b")
    os.link(tmp_path / "a", tmp_path / "c")
    kinds = {}
    with scan(bytes(tmp_path)) as found:
        for entry in found:
            assert isinstance(entry, Scanned)
            kinds[entry.path] = (entry.type, entry.link)
            if entry.path == b"a":
                found.release_link(entry)
    assert kinds[b"b"] == (FileType.FILE, b"")
    assert kinds[b"c"] == (FileType.HARDLINK, b"b")


def test_sockets_fifos_and_devices_are_named_as_skipped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    os.mknod(tmp_path / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(tmp_path, os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    assert skipped(tmp_path) == dict.fromkeys([b"fifo", b"device", b"socket"], SkipKind.SPECIAL)
    assert list(scanned(tmp_path)) == [b""]


def test_empty_folders_are_kept_and_own_temporary_files_are_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / ".backupd-restore-17-0").write_bytes(b"half")
    (tmp_path / ".backupd-restor").touch()
    assert list(scanned(tmp_path)) == [b"", b".backupd-restor", b"empty"]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "inner").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path / "inner")], check=True)
    (tmp_path / "inner" / "x").touch()
    yield tmp_path
    subprocess.run(["umount", str(tmp_path / "inner")], check=True)


def test_another_filesystem_is_named_and_entered_only_when_told(mounted: Path) -> None:
    assert skipped(mounted) == {b"inner": SkipKind.MOUNT}
    assert list(scanned(mounted)) == [b"", b"inner"]
    with scan(bytes(mounted), ScanOptions(one_filesystem=False)) as found:
        assert [entry.path for entry in found] == [b"", b"inner", b"inner/x"]


def test_two_thousand_nested_folders_are_scanned_and_read(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for level in range(2000):
        os.mkdir(b"nest", dir_fd=fd)
        below = os.open(b"nest", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
        if level % 100 == 99:
            os.close(os.open(b"z", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    paths = []
    with scan(bytes(tmp_path)) as found:
        for entry in found:
            assert isinstance(entry, Scanned)
            paths.append(entry.path)
            assert len(os.listdir("/proc/self/fd")) < before + 80
            if entry.type is FileType.FILE:
                open_for_capture(found, entry).close()
        with scan(bytes(tmp_path)) as again:  # from cold: the deepest file by its path alone
            deepest = max((e for e in found if isinstance(e, Scanned)), key=lambda e: len(e.path))
            open_for_capture(again, deepest).close()
    assert len(paths) == 2021
    assert paths == sorted(paths)
    subprocess.run(["rm", "-rf", str(tmp_path / "nest")], check=True)


def test_what_vanishes_during_the_scan_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").touch()
    seen: dict[bytes, object] = {}
    with scan(bytes(tmp_path)) as found:
        for entry in found:
            seen[entry.path] = entry
            if isinstance(entry, Skipped):
                continue
            if entry.path == b"a":
                (tmp_path / "a" / "f").unlink()
                (tmp_path / "a").rmdir()
            if entry.path == b"b":
                (tmp_path / "b").rename(tmp_path / "b-away")
    vanished = {p for p, e in seen.items() if isinstance(e, Skipped)}
    assert vanished == {b"a", b"b"}
    assert all(e.kind is SkipKind.VANISHED for e in seen.values() if isinstance(e, Skipped))
    assert b"c/f" in seen


def test_a_root_that_vanishes_is_an_error_not_an_empty_snapshot(tmp_path: Path) -> None:
    root = tmp_path / "model"
    root.mkdir()
    (root / "f").touch()
    with scan(bytes(root)) as found, pytest.raises(BackupdError, match="does not exist"):
        for _ in found:
            if root.exists():
                root.rename(tmp_path / "gone")
    root.mkdir()
    with scan(bytes(root)) as found, pytest.raises(BackupdError, match="replaced while"):
        for entry in found:
            if entry.path == b"":
                root.rename(tmp_path / "gone2")
                root.mkdir()


def test_a_root_that_is_no_folder_or_absent_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(BackupdError, match="not a folder"):
        scan(bytes(tmp_path / "f"))
    with pytest.raises(BackupdError, match="does not exist") as caught:
        scan(bytes(tmp_path / "no"))
    assert caught.value.hint


def test_what_may_not_be_read_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open" / "secret").write_bytes(b"x")
    (tmp_path / "open" / "secret").chmod(0)
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_mode & 0o005 != 0o005 and folder != Path("/"):
            folder.chmod(0o755)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        code = 1
        try:
            refused = {}
            with scan(bytes(tmp_path)) as found:
                for entry in found:
                    if isinstance(entry, Skipped):
                        refused[entry.path] = entry.missing
                    elif entry.type is FileType.FILE:
                        try:
                            open_for_capture(found, entry).close()
                        except LeftOutError as error:
                            refused[entry.path] = error.skipped.missing
            code = 0 if refused == {b"closed": True, b"open/secret": True} else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_extended_attributes_and_acls_are_kept(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "d").mkdir()
    (tmp_path / "l").symlink_to("f")
    os.setxattr(tmp_path / "f", "user.step", b"\x00\xff")
    os.setxattr(tmp_path / "d", "user.empty", b"")
    os.setxattr(tmp_path / "l", "trusted.link", b"on the link", follow_symlinks=False)
    subprocess.run(["setfacl", "-m", "u:1234:r", str(tmp_path / "f")], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx", str(tmp_path / "d")], check=True)
    kept = metadata(tmp_path, b"f")[0].xattrs
    assert kept[b"user.step"] == b"\x00\xff"
    assert kept[b"system.posix_acl_access"] == os.getxattr(
        tmp_path / "f", "system.posix_acl_access"
    )
    folder = metadata(tmp_path, b"d")[0].xattrs
    assert folder[b"user.empty"] == b""
    assert b"system.posix_acl_default" in folder
    assert metadata(tmp_path, b"l")[0].xattrs == {b"trusted.link": b"on the link"}


def test_extended_attributes_beyond_the_bound_are_left_out_and_named(
    tmp_path: Path, loop_filesystem: Path
) -> None:
    file = loop_filesystem / "f"
    file.touch()
    for number in range(20):
        os.setxattr(file, f"user.{number:02}", b"x" * 65000)
    kept, notes = metadata(loop_filesystem, b"f")
    total = sum(len(name) + len(value) for name, value in kept.xattrs.items())
    assert 0 < total <= XATTRS_LIMIT_BYTES
    assert [note.kind for note in notes] == [SkipKind.ATTRIBUTES]


@pytest.fixture
def loop_filesystem(tmp_path: Path) -> Iterator[Path]:
    image, place = tmp_path / "xfs.img", tmp_path / "xfs"
    with image.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run(["mkfs.xfs", "-q", str(image)], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_folder_swapped_for_a_symlink_never_leads_outside(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    for folder, content in ((outside, b"SECRET"), (root / "d", b"public")):
        folder.mkdir(parents=True)
        for number in range(20):
            (folder / f"f{number}").write_bytes(content)
    stop = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not stop.is_set():
            os.rename(root / "d", root / "away")
            os.symlink(outside, root / "d")
            os.unlink(root / "d")
            os.rename(root / "away", root / "d")
            swaps += 1

    thread = threading.Thread(target=swap)
    thread.start()
    read = 0
    try:
        until = time.monotonic() + 3
        buffer = bytearray(10)
        # On a busy machine longer, until enough has met.
        while time.monotonic() < until or min(read, swaps) <= 100:
            assert time.monotonic() < until + 100, (read, swaps)
            with scan(bytes(root)) as found:
                for entry in found:
                    if isinstance(entry, Scanned) and entry.type is FileType.FILE:
                        try:
                            with open_for_capture(found, entry) as file:
                                count = file.read_into(buffer, 0)
                        except LeftOutError:
                            continue
                        assert bytes(buffer[:count]) == b"public"
                        read += 1
    finally:
        stop.set()
        thread.join()
    assert read > 100
    assert swaps > 100


def test_a_hundred_thousand_files_take_well_under_a_second_of_cpu(in_memory: Path) -> None:
    for folder in range(20):
        (in_memory / str(folder)).mkdir()
        for number in range(1000):
            os.close(os.open(in_memory / str(folder) / str(number), os.O_CREAT | os.O_WRONLY))
    spent = []
    # The best of three, as a collection of all that a long run holds may fall into any of them.
    for _ in range(3):
        begin = time.process_time()
        with scan(bytes(in_memory)) as found:
            count = sum(1 for _ in found)
        spent.append(time.process_time() - begin)
        assert count == 20_021
    assert min(spent) < 0.2 * 3  # 0.08 s where nothing else runs
