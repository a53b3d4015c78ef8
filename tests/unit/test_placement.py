"""A restore puts entries where they belong, as they were, and replaces nothing unasked."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.capture.scan import Scanned, scan
from backupd.errors import BackupdError, DamagedError
from backupd.operations.placement import (
    InTheWayError,
    Placement,
    PlacementError,
    RestoreRoot,
    UnsafeEntryError,
    checked_path,
    plan_placement,
)
from backupd.repository.tree import ChunkRef, FileType, Metadata, TreeEntry

MTIME_NS = 1_600_000_000_123_456_789


def entry(
    path: bytes,
    kind: FileType = FileType.FILE,
    *,
    size: int = 0,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    link: bytes = b"",
    mtime_ns: int = MTIME_NS,
    xattrs: dict[bytes, bytes] | None = None,
    extents: tuple[tuple[int, int], ...] = (),
) -> TreeEntry:
    metadata = Metadata(mode, uid, gid, mtime_ns, 0, 0, 0, size, xattrs=xattrs or {})
    chunks = (ChunkRef(b"", size),) if size and not extents else ()
    return TreeEntry(path, kind, metadata, link, chunks, extents=extents)


def folder(path: bytes, **more: object) -> TreeEntry:
    return entry(path, FileType.FOLDER, **{"mode": 0o755, **more})  # type: ignore[arg-type]


def put(root: RestoreRoot, path: bytes, content: bytes = b"new", **more: object) -> None:
    with root.begin_file(entry(path, size=len(content), **more)) as file:  # type: ignore[arg-type]
        file.pwrite(content, 0)
        file.finish()


@pytest.fixture
def place() -> Iterator[Path]:
    """An absent folder on tmpfs, with a canary beside it."""
    base = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="backupd-place-"))
    yield base / "root"
    shutil.rmtree(base)


def leftovers(place: Path) -> list[str]:
    return [str(found) for found in place.rglob(".backupd-restore-*")]


def test_a_file_is_given_content_mode_owner_attributes_and_time(place: Path) -> None:
    warned: list[str] = []
    with RestoreRoot(bytes(place), warn=lambda path, why: warned.append(why)) as root:
        root.make_folder(folder(b""))
        put(root, b"deep/er/f", b"hello", mode=0o104751, uid=123, gid=456,
            xattrs={b"user.step": b"\x00\xff"})  # fmt: skip
        put(root, b"private", mode=0o100600)
        put(root, b"closed", mode=0o100000)
        root.finish_folders()
    found = (place / "deep/er/f").stat()
    assert stat.S_IMODE(found.st_mode) == 0o4751
    assert (found.st_uid, found.st_gid, found.st_mtime_ns) == (123, 456, MTIME_NS)
    assert os.getxattr(place / "deep/er/f", "user.step") == b"\x00\xff"
    assert stat.S_IMODE((place / "private").stat().st_mode) == 0o600
    assert stat.S_IMODE((place / "closed").stat().st_mode) == 0o000
    assert place.stat().st_mtime_ns == MTIME_NS
    assert warned == []
    assert leftovers(place) == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes_do_not_depend_on_the_umask(place: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with RestoreRoot(bytes(place)) as root:
            root.make_folder(folder(b"d", mode=0o1777))
            put(root, b"d/f", mode=0o666)
            root.finish_folders()
    finally:
        os.umask(before)
    assert stat.S_IMODE((place / "d").stat().st_mode) == 0o1777
    assert stat.S_IMODE((place / "d/f").stat().st_mode) == 0o666


def test_folders_get_their_modes_and_times_last(place: Path) -> None:
    with RestoreRoot(bytes(place)) as root:
        root.make_folder(folder(b"a", mode=0o2555, uid=5, gid=6))
        root.make_folder(folder(b"a/b", mode=0o500, xattrs={b"user.x": b"1"}))
        put(root, b"a/b/f")
        put(root, b"a/g")
        root.finish_folders()
    for name, mode in (("a", 0o2555), ("a/b", 0o500)):
        assert stat.S_IMODE((place / name).stat().st_mode) == mode
        assert (place / name).stat().st_mtime_ns == MTIME_NS
    assert ((place / "a").stat().st_uid, (place / "a").stat().st_gid) == (5, 6)
    assert os.getxattr(place / "a/b", "user.x") == b"1"


def test_owners_go_by_name_unless_numbers_are_asked_for(place: Path) -> None:
    one = entry(b"f", size=1)
    named = one._replace(metadata=one.metadata._replace(user="nobody", uid=77, group="no-such"))
    for numeric, uid in ((False, 65534), (True, 77)):
        with (
            RestoreRoot(bytes(place), overwrite=True, numeric_owner=numeric) as root,
            root.begin_file(named) as file,
        ):
            file.pwrite(b"x", 0)
            file.finish()
        assert (place / "f").stat().st_uid == uid


def test_what_is_already_right_is_the_same_and_the_rest_is_told(place: Path) -> None:
    with RestoreRoot(bytes(place)) as root:
        put(root, b"d/f")
        root.make_symlink(entry(b"s", FileType.SYMLINK, link=b"d/f"))
        root.make_hardlink(entry(b"h", FileType.HARDLINK, size=3, link=b"d/f"))
    cases = [
        (entry(b"d/f", size=3), Placement.SAME),
        (entry(b"d/f", size=4), Placement.DIFFERS),
        (entry(b"d/f", size=3, mtime_ns=5), Placement.DIFFERS),
        (entry(b"d/f/x", size=3), Placement.BLOCKED),
        (entry(b"s/x", size=3), Placement.BLOCKED),
        (entry(b"s", size=3), Placement.BLOCKED),
        (entry(b"d", size=3), Placement.BLOCKED),
        (folder(b"d"), Placement.SAME),
        (folder(b"d/f"), Placement.BLOCKED),
        (folder(b""), Placement.SAME),
        (entry(b"s", FileType.SYMLINK, link=b"d/f"), Placement.SAME),
        (entry(b"s", FileType.SYMLINK, link=b"d/g"), Placement.DIFFERS),
        (entry(b"h", FileType.HARDLINK, size=3, link=b"d/f"), Placement.SAME),
        (entry(b"h", FileType.HARDLINK, size=3, link=b"s"), Placement.DIFFERS),
        (entry(b"new", size=3), Placement.CREATE),
        (entry(b"no/such/f", size=3), Placement.CREATE),
    ]
    with RestoreRoot(bytes(place)) as root:
        for one, expected in cases:
            assert root.classify(one) is expected, one.path
    assert list(plan_placement(bytes(place), [one for one, _ in cases])) == [e for _, e in cases]


def test_a_dry_run_touches_nothing(place: Path) -> None:
    assert list(plan_placement(bytes(place), [entry(b"a/b", size=1)])) == [Placement.CREATE]
    assert not place.exists()
    place.mkdir()
    (place / ".backupd-restore-1-1").touch()
    list(plan_placement(bytes(place), [entry(b"a", size=1)]))
    assert len(leftovers(place)) == 1


def test_nothing_that_differs_is_replaced_unless_asked(place: Path) -> None:
    place.mkdir()
    (place / "f").write_bytes(b"mine")
    (place / "s").symlink_to("f")
    (place / "file").write_bytes(b"mine")
    (place / "empty").mkdir()
    with RestoreRoot(bytes(place)) as root:
        put(root, b"source")
        for attempt in (
            lambda: put(root, b"f"),
            lambda: put(root, b"s"),
            lambda: put(root, b"empty"),
            lambda: root.make_symlink(entry(b"f", FileType.SYMLINK, link=b"x")),
            lambda: root.make_hardlink(entry(b"f", FileType.HARDLINK, size=3, link=b"source")),
            lambda: root.make_folder(folder(b"file")),
        ):
            with pytest.raises(InTheWayError, match=r".") as caught:
                attempt()
            assert "--overwrite" in caught.value.hint
    assert (place / "f").read_bytes() == b"mine"
    assert leftovers(place) == []
    with RestoreRoot(bytes(place), overwrite=True) as root:
        put(root, b"f")
        put(root, b"empty")
        root.make_symlink(entry(b"s", FileType.SYMLINK, link=b"elsewhere"))
        root.make_folder(folder(b"file"))
        put(root, b"file/below")
        root.make_hardlink(entry(b"f", FileType.HARDLINK, size=3, link=b"source"))
        root.finish_folders()
    assert (place / "f").samefile(place / "source")
    assert (place / "s").readlink() == Path("elsewhere")
    assert (place / "file/below").read_bytes() == b"new"
    assert leftovers(place) == []


def test_a_folder_with_content_is_never_replaced_by_a_file(place: Path) -> None:
    (place / "d").mkdir(parents=True)
    (place / "d" / "precious").touch()
    with RestoreRoot(bytes(place), overwrite=True) as root, pytest.raises(PlacementError):
        put(root, b"d")
    assert (place / "d" / "precious").exists()
    assert leftovers(place) == []


def test_an_abandoned_file_leaves_what_was_there(place: Path) -> None:
    place.mkdir()
    (place / "f").write_bytes(b"old")
    with RestoreRoot(bytes(place), overwrite=True) as root:
        with root.begin_file(entry(b"f", size=3)) as file:
            file.pwrite(b"new", 0)
        assert (place / "f").read_bytes() == b"old"
        assert leftovers(place) == []
        with root.begin_file(entry(b"f", size=3)) as file:
            file.pwrite(b"ne", 0)
            with pytest.raises(DamagedError, match="f: fewer bytes"):
                file.finish()
            assert leftovers(place) == []
    assert (place / "f").read_bytes() == b"old"


def test_bytes_beyond_the_size_are_refused(place: Path) -> None:
    with RestoreRoot(bytes(place)) as root:
        for offset in (1, -1, 1 << 62):
            with root.begin_file(entry(b"f", size=3)) as file, pytest.raises(DamagedError):
                file.pwrite(b"new", offset)
        with pytest.raises((DamagedError, PlacementError)):
            root.begin_file(entry(b"f", size=1 << 70, extents=((0, 1),)))
        root.finish_folders()
    assert leftovers(place) == []


def test_holes_stay_holes(place: Path) -> None:
    mib = 1 << 20
    with RestoreRoot(bytes(place)) as root:
        with root.begin_file(entry(b"f", size=64 * mib, extents=((mib, 3),))) as file:
            file.pwrite(b"abc", mib)
            file.finish()
        whole = entry(b"hole", size=8 * mib, extents=((0, 0),))
        with root.begin_file(whole) as file:
            file.finish()
    assert (place / "f").stat().st_size == 64 * mib
    assert (place / "f").stat().st_blocks * 512 < mib
    assert (place / "hole").stat().st_blocks == 0
    with (place / "f").open("rb") as reading:
        reading.seek(mib)
        assert reading.read(4) == b"abc\0"


def test_leftovers_of_an_interrupted_run_go_and_the_root_gets_its_mode(place: Path) -> None:
    child = os.fork()
    if child == 0:
        root = RestoreRoot(bytes(place))
        root.make_folder(folder(b"", mode=0o711))
        root.make_folder(folder(b"d"))
        put(root, b"d/done")
        root.begin_file(entry(b"d/half", size=3)).pwrite(b"ne", 0)
        os._exit(0)
    os.waitpid(child, 0)
    assert len(leftovers(place)) == 2  # the half file, and the mark of an unfinished restore
    with RestoreRoot(bytes(place)) as root:
        root.make_folder(folder(b"", mode=0o711))
        root.make_folder(folder(b"d"))
        assert root.classify(entry(b"d/done", size=3)) is Placement.SAME
        assert root.classify(entry(b"d/half", size=3)) is Placement.CREATE
        put(root, b"d/half")
        root.finish_folders()
    assert leftovers(place) == []
    assert stat.S_IMODE(place.stat().st_mode) == 0o711
    assert sorted(os.listdir(place / "d")) == ["done", "half"]


def test_a_root_that_held_something_keeps_its_own_mode_unless_claimed(place: Path) -> None:
    place.mkdir(mode=0o700)
    (place / "mine").touch()
    for claim, mode in ((False, 0o700), (True, 0o755)):
        with RestoreRoot(bytes(place), claim_root=claim) as root:
            root.make_folder(folder(b""))
            root.finish_folders()
        assert stat.S_IMODE(place.stat().st_mode) == mode


def test_two_restores_into_one_folder_are_kept_apart(place: Path) -> None:
    with RestoreRoot(bytes(place)), pytest.raises(BackupdError, match="another restore"):
        RestoreRoot(bytes(place))
    RestoreRoot(bytes(place)).__exit__(None, None, None)


def test_default_acls_of_a_folder_do_not_leak_into_what_is_restored(place: Path) -> None:
    place.mkdir()
    subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx", str(place)], check=True)
    with RestoreRoot(bytes(place)) as root:
        root.make_folder(folder(b"d"))
        put(root, b"d/f", mode=0o640)
        put(root, b"f", mode=0o640)
        root.finish_folders()
    for name in ("d", "d/f", "f"):
        assert os.listxattr(place / name) == []
    assert stat.S_IMODE((place / "f").stat().st_mode) == 0o640


def test_a_hard_link_is_made_only_to_what_was_restored(place: Path) -> None:
    place.mkdir()
    (place / "other").write_bytes(b"not of the snapshot")
    with RestoreRoot(bytes(place)) as root:
        for link in (b"other", b"absent", b"no/such", b""):
            with pytest.raises(PlacementError):
                root.make_hardlink(entry(b"h", FileType.HARDLINK, size=3, link=link))
        with pytest.raises(UnsafeEntryError):
            root.make_hardlink(entry(b"h", FileType.HARDLINK, size=3, link=b"../canary"))
    assert not (place / "h").exists()


@pytest.mark.parametrize(
    "path",
    [b"/etc/x", b"..", b"../x", b"a/../x", b"a/..", b".", b"./a", b"a//b", b"a/", b"/", b"a\0b",
     b"x" * 256, b"a/" + b"y" * 256, b"a/./b"],
)  # fmt: skip
def test_a_path_that_leads_out_or_cannot_be_is_refused(path: bytes) -> None:
    with pytest.raises(UnsafeEntryError):
        checked_path(path)


@pytest.mark.parametrize(
    "path", [b"", b"a", b"...", b"..a", b".a/.b", b"a" * 255, b"\xff\n-", b"ab/" * 500 + b"z"]
)
def test_an_odd_but_possible_path_is_taken(path: bytes) -> None:
    assert checked_path(path) == path


def test_two_thousand_nested_folders_are_restored(place: Path) -> None:
    path = b"/".join([b"nest"] * 2000)
    with RestoreRoot(bytes(place)) as root:
        for level in range(1, 2001):
            root.make_folder(folder(path[: level * 5 - 1], mode=0o750))
        put(root, path + b"/f")
        root.finish_folders()
    with scan(bytes(place)) as found:
        got = [one for one in found if isinstance(one, Scanned)]
    assert got[-1].path == path + b"/f"
    assert all(stat.S_IMODE(one.stat.st_mode) == 0o750 for one in got[1:-1])
    assert all(one.stat.st_mtime_ns == MTIME_NS for one in got[1:])
    subprocess.run(["rm", "-rf", str(place / "nest")], check=True)


def test_a_full_disk_is_told_with_path_and_mend_and_leaves_no_half_file(place: Path) -> None:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], check=True)
    try:
        with RestoreRoot(bytes(place)) as root:
            put(root, b"small")
            try:
                put(root, b"big", b"x" * (2 << 20))
            except PlacementError as error:
                full = (str(error), error.fatal, error.hint)
            root.finish_folders()
        assert full[0] == "big: cannot be written: No space left on device"
        assert full[1]
        assert "Free space" in full[2]
        assert sorted(os.listdir(place)) == ["small"]
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        with RestoreRoot(bytes(place)) as root:
            try:
                put(root, b"more")
            except PlacementError as error:
                full = (str(error), error.fatal, error.hint)
        assert full[0] == "more: cannot be written: Read-only file system"
        assert full[1]
        assert "writable" in full[2]
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_user_who_is_not_root_can_go_on_in_read_only_folders(place: Path) -> None:
    place.mkdir()
    place.parent.chmod(0o755)
    os.chown(place, 65534, 65534)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            for name in (b"one", b"two"):
                with RestoreRoot(bytes(place)) as root:
                    root.make_folder(folder(b"d", mode=0o555))
                    put(root, b"d/" + name, mode=0o4755, uid=0)
                    root.finish_folders()
            with RestoreRoot(bytes(place)) as root:
                put(root, b"d/three")  # the folder itself is not asked for this time
                root.finish_folders()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(os.listdir(place / "d")) == ["one", "three", "two"]
    assert stat.S_IMODE((place / "d").stat().st_mode) == 0o555
    assert stat.S_IMODE((place / "d" / "one").stat().st_mode) == 0o755  # no setuid for another
