"""A file is read as one state of it, or it is noticed that it was not."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.capture.reading import CaptureFile, open_for_capture
from backupd.capture.scan import LeftOutError, Scan, Scanned, SkipKind, scan

MIB = 1 << 20


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Scan]:
    with scan(bytes(tmp_path)) as found:
        yield found


def entry_of(found: Scan, path: bytes) -> Scanned:
    return next(e for e in found if isinstance(e, Scanned) and e.path == path)


def capture(found: Scan, path: bytes) -> CaptureFile:
    return open_for_capture(found, entry_of(found, path))


def test_content_is_read_into_the_given_buffer(tmp_path: Path, opened: Scan) -> None:
    content = os.urandom(3 * MIB + 17)
    (tmp_path / "f").write_bytes(content)
    with capture(opened, b"f") as file:
        buffer = bytearray(MIB)
        parts = []
        offset = 0
        while count := file.read_into(buffer, offset):
            parts.append(bytes(buffer[:count]))
            offset += count
        assert [len(part) for part in parts] == [MIB, MIB, MIB, 17]
        assert b"".join(parts) == content
        assert file.unchanged()


@pytest.mark.parametrize("change", ["append", "in place", "truncate", "touch", "mode"])
def test_a_change_while_reading_is_noticed(tmp_path: Path, opened: Scan, change: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100)
    os.utime(path, ns=(0, 0))
    with capture(opened, b"f") as file:
        file.read_into(bytearray(100), 0)
        assert file.unchanged()
        if change == "touch":
            os.utime(path, ns=(5, 5))
        elif change == "mode":
            path.chmod(0o600)
        elif change == "truncate":
            os.truncate(path, 10)
        else:
            with path.open("r+b") as other:
                other.seek(0, os.SEEK_END if change == "append" else os.SEEK_SET)
                other.write(b"y")
        assert not file.unchanged()


def test_a_file_renamed_over_since_the_scan_is_read_as_it_is_now(
    tmp_path: Path, opened: Scan
) -> None:
    (tmp_path / "f").write_bytes(b"old")
    entry = entry_of(opened, b"f")
    (tmp_path / "new").write_bytes(b"newer")
    os.rename(tmp_path / "new", tmp_path / "f")
    with open_for_capture(opened, entry) as file:
        assert file.stat.st_ino != entry.stat.st_ino
        assert file.stat.st_size == 5
        buffer = bytearray(10)
        assert bytes(buffer[: file.read_into(buffer, 0)]) == b"newer"


@pytest.mark.parametrize("swap", ["symlink", "fifo", "folder", "nothing", "linked"])
def test_what_is_no_longer_the_scanned_file_is_not_read(
    tmp_path: Path, opened: Scan, swap: str
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    if swap == "linked":
        os.link(path, tmp_path / "second")
    entry = entry_of(opened, b"f")
    path.unlink()
    if swap == "symlink":
        path.symlink_to("/etc/passwd")
    elif swap == "fifo":
        os.mkfifo(path)  # an open that waits for a writer would hang here
    elif swap == "folder":
        path.mkdir()
    elif swap == "linked":
        path.write_bytes(b"another inode")
    with pytest.raises(LeftOutError) as caught:
        open_for_capture(opened, entry)
    assert caught.value.skipped.kind is SkipKind.VANISHED


def test_reading_leaves_the_access_time_alone(tmp_path: Path, opened: Scan) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    os.utime(path, ns=(1, 2_000_000_000))
    with capture(opened, b"f") as file:
        file.read_into(bytearray(1), 0)
    assert path.stat().st_atime_ns == 1


def test_holes_are_found_and_dense_files_have_none(tmp_path: Path, opened: Scan) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.seek(4 * MIB)
        file.write(b"a" * MIB)
        file.truncate(16 * MIB)
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(3 * MIB)
    (tmp_path / "dense").write_bytes(b"x" * MIB)
    (tmp_path / "empty").touch()
    with capture(opened, b"sparse") as found:
        assert found.extents() == ((4 * MIB, MIB),)
    with capture(opened, b"hole") as found:
        assert found.extents() == ((0, 0),)
    for name in (b"dense", b"empty"):
        with capture(opened, name) as found:
            assert found.extents() == ()


def cached_pages(path: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        pages = (len(mapped) + 4095) // 4096
        answer = (ctypes.c_ubyte * pages)()
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(mapped)), answer) == 0
        return sum(page & 1 for page in answer)


@pytest.mark.parametrize("was_cached", [True, False])
def test_the_page_cache_is_left_as_it_was_found(tmp_path: Path, was_cached: bool) -> None:
    image, place = tmp_path / "ext4.img", tmp_path / "ext4"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        path = place / "weights"
        path.write_bytes(os.urandom(16 * MIB))
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if was_cached:
            while os.read(fd, MIB):
                pass
        os.close(fd)
        before = cached_pages(path)
        assert (before == 4096) is was_cached
        with scan(bytes(place)) as found, capture(found, b"weights") as file:
            buffer = bytearray(4 * MIB)
            for offset in range(0, 16 * MIB, 4 * MIB):
                assert file.read_into(buffer, offset) == 4 * MIB
        after = cached_pages(path)
        assert after == 4096 if was_cached else after < 1024
    finally:
        subprocess.run(["umount", str(place)], check=True)
