"""Whatever a snapshot's entries say, and whatever happens meanwhile, nothing outside is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.errors import BackupdError
from backupd.operations.placement import Placement, RestoreRoot
from backupd.repository.tree import ChunkRef, FileType, Metadata, TreeEntry

NAMES = [b"a", b"b", b"c", b"..", b".", b"", b"outside", b"canary", b"\xff", b"x" * 256, b"n\0"]
name = st.sampled_from(NAMES) | st.binary(max_size=4)
path = (
    st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=3).map(b"/".join)
    | st.lists(name, max_size=4).map(b"/".join)
    | st.sampled_from([b"../outside/canary", b"/etc/passwd", b"a/../../outside/canary"])
)
link = (
    path
    | st.sampled_from([b"../outside", b"../outside/canary", b"/", b".", b"..", b"a", b"/proc/self"])
    | st.just(b"OUTSIDE")
)
size = st.sampled_from([0, 3, 1 << 20])
entry = st.builds(
    lambda p, kind, to, length, mode, sparse: TreeEntry(
        p,
        kind,
        Metadata(mode, 0, 0, 5, 0, 0, 0, length, xattrs={b"user.x": b"1"} if mode & 1 else {}),
        link=to,
        chunks=() if sparse else (ChunkRef(b"", length),),
    ),
    path, st.sampled_from(FileType), link, size, st.sampled_from([0o644, 0o755, 0o4777, 0]),
    st.booleans(),
)  # fmt: skip


def state(folder: Path) -> list[tuple[object, ...]]:
    """Everything that can be told of a tree, ctimes and link counts included."""
    found: list[tuple[object, ...]] = []
    for here, folders, files in os.walk(folder):
        for one in [".", *folders, *files]:
            place = Path(here) / one
            about = place.lstat()
            content = place.read_bytes() if place.is_file() and not place.is_symlink() else b""
            found.append((str(place), about.st_mode, about.st_ino, about.st_nlink, about.st_uid,
                          about.st_mtime_ns, about.st_ctime_ns, content))  # fmt: skip
    return sorted(found, key=str)


def make_outside(base: Path) -> Path:
    outside = base / "outside"
    (outside / "a" / "b").mkdir(parents=True)
    (outside / "canary").write_bytes(b"canary")
    (outside / "a" / "canary").write_bytes(b"deep")
    return outside


def place_one(root: RestoreRoot, one: TreeEntry) -> None:
    root.classify(one)
    if one.type is FileType.FOLDER:
        root.make_folder(one)
    elif one.type is FileType.SYMLINK:
        root.make_symlink(one)
    elif one.type is FileType.HARDLINK:
        root.make_hardlink(one)
    else:
        with root.begin_file(one) as file:
            if one.chunks:
                file.pwrite(b"x" * one.metadata.size_bytes, 0)
            file.finish()


@settings(max_examples=400, deadline=None)
@given(entries=st.lists(entry, max_size=12), overwrite=st.booleans())
def test_no_sequence_of_entries_touches_anything_outside(
    entries: list[TreeEntry], overwrite: bool
) -> None:
    base = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="backupd-hostile-"))
    try:
        outside = make_outside(base)
        before = state(outside)
        with RestoreRoot(bytes(base / "root"), overwrite=overwrite) as root:
            for one in entries:
                to = one.link.replace(b"OUTSIDE", bytes(outside))
                one = TreeEntry(one.path, one.type, one.metadata, to, one.chunks)
                with contextlib.suppress(BackupdError):
                    place_one(root, one)
            with contextlib.suppress(BackupdError):
                root.finish_folders()
        assert state(outside) == before
        assert sorted(os.listdir(base)) == ["outside", "root"]
        for here, _, files in os.walk(base / "root"):
            assert not [f for f in files if f.startswith(".backupd-restore-")], here
    finally:
        shutil.rmtree(base)


def simple(p: bytes, kind: FileType, to: bytes = b"") -> TreeEntry:
    length = 3 if kind is FileType.FILE else 0
    chunks = (ChunkRef(b"", 3),) if length else ()
    return TreeEntry(p, kind, Metadata(0o755, 0, 0, 5, 0, 0, 0, length), to, chunks)


def test_a_file_below_a_symlink_of_the_same_snapshot_is_refused(tmp_path: Path) -> None:
    outside = make_outside(tmp_path)
    before = state(outside)
    with RestoreRoot(bytes(tmp_path / "root"), overwrite=True) as root:
        root.make_symlink(simple(b"a", FileType.SYMLINK, bytes(outside)))
        below = simple(b"a/canary", FileType.FILE)
        assert root.classify(below) is Placement.BLOCKED
        for one in (
            below,
            simple(b"a/new", FileType.FOLDER),
            simple(b"a/new", FileType.SYMLINK, b"x"),
            TreeEntry(b"h", FileType.HARDLINK, below.metadata, b"a/canary"),
        ):
            try:
                place_one(root, one)
            except BackupdError:
                continue
            raise AssertionError(one.path)
        root.finish_folders()
    assert state(outside) == before


def test_a_folder_swapped_for_a_symlink_meanwhile_never_leads_outside(tmp_path: Path) -> None:
    base = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="backupd-race-"))
    try:
        outside = make_outside(base)
        (base / "root" / "a" / "b").mkdir(parents=True)
        before = state(outside)
        stop = threading.Event()
        swaps = 0

        def swap() -> None:
            nonlocal swaps
            here = base / "root"
            while not stop.is_set():
                try:
                    os.rename(here / "a", here / "away")
                    os.symlink(outside, here / "a")
                    time.sleep(0.0002)
                    os.unlink(here / "a")
                    os.rename(here / "away", here / "a")
                    swaps += 1
                    time.sleep(0.0002)
                except OSError:  # the restore has replaced the symlink by a folder
                    shutil.rmtree(here / "away", ignore_errors=True)

        thread = threading.Thread(target=swap)
        thread.start()
        placed = refused = 0
        until = time.monotonic() + 3
        try:
            # On a busy machine longer, until enough has met.
            while time.monotonic() < until or min(placed, refused, swaps) <= 20:
                assert time.monotonic() < until + 100, (placed, refused, swaps)
                with RestoreRoot(bytes(base / "root"), overwrite=True) as root:
                    for one in (
                        simple(b"a", FileType.FOLDER),
                        simple(b"a/canary", FileType.FILE),
                        simple(b"a/b", FileType.FOLDER),
                        simple(b"a/b/canary", FileType.FILE),
                        simple(b"a/link", FileType.SYMLINK, b"canary"),
                        TreeEntry(b"a/hard", FileType.HARDLINK,
                                  simple(b"", FileType.FILE).metadata, b"a/canary"),
                    ):  # fmt: skip
                        try:
                            place_one(root, one)
                            placed += 1
                        except BackupdError:
                            refused += 1
                    with contextlib.suppress(BackupdError):
                        root.finish_folders()
        finally:
            stop.set()
            thread.join()
        assert state(outside) == before
        assert min(placed, refused, swaps) > 20
    finally:
        shutil.rmtree(base)
