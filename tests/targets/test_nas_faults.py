"""A NAS target on a mount that refuses, lies, hangs, or is another one than before."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.config.settings import NasTarget
from backupd.errors import (
    TargetError,
    TargetFullError,
    TargetReadOnlyError,
    TargetUnreachableError,
)
from backupd.targets.nas import MountTarget
from backupd.targets.open import open_target, prepare_target
from tests.rigs.faulty_mount import FaultyMount, faulty_mount
from tests.targets.conftest import mounted_tmpfs

MiB = 1 << 20


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[FaultyMount]:
    with faulty_mount(tmp_path / "nas") as made:
        yield made


@pytest.fixture
def target(mount: FaultyMount) -> Iterator[MountTarget]:
    """On a mount that is in order, with one object in it."""
    made = MountTarget("nas", mount.path)
    made.put("index/kept", [b"kept"])
    yield made
    mount.faults()
    made.close()


@pytest.fixture
def impatient(mount: FaultyMount, target: MountTarget) -> Iterator[MountTarget]:
    """The same, for what hangs: an operation that does not may take a second on a busy machine."""
    made = MountTarget("nas", mount.path, hang_seconds=1.0)
    yield made
    mount.faults()
    made.close()


def answering(target: MountTarget) -> None:
    """Return once the target answers after it hung."""
    deadline = time.monotonic() + 100
    while True:
        try:
            assert target.get("index/kept", 9) == b"kept"
            return
        except TargetUnreachableError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def mount_threads() -> int:
    return sum(thread.name == "mount" for thread in threading.enumerate())


def names(target: MountTarget) -> list[str]:
    return [info.name for info in target.list("")]


@pytest.mark.parametrize(
    ("operation", "fault", "kind"),
    [
        ("write", "ENOSPC", TargetFullError),
        ("write", "EDQUOT", TargetFullError),
        ("create", "ENOSPC", TargetFullError),
        ("create", "EROFS", TargetReadOnlyError),
        ("mkdir", "EROFS", TargetReadOnlyError),
        ("rename", "EACCES", TargetReadOnlyError),
        ("write", "EIO", TargetUnreachableError),
        ("fsync", "EIO", TargetUnreachableError),
        ("flush", "EIO", TargetUnreachableError),
        ("rename", "EIO", TargetUnreachableError),
        ("getattr", "ESTALE", TargetUnreachableError),
        ("open", "ESTALE", TargetUnreachableError),
        ("read", "EIO", TargetUnreachableError),
        ("rename", "ESTALE", TargetUnreachableError),
        ("write", "ETIMEDOUT", TargetUnreachableError),
        ("write", "drop", TargetUnreachableError),
    ],
)
def test_a_put_that_fails_is_told_and_is_not_there_and_the_next_one_is(
    mount: FaultyMount, target: MountTarget, operation: str, fault: str, kind: type[TargetError]
) -> None:
    mount.faults(**{operation: fault})
    with pytest.raises(TargetError, match="'nas'") as caught:
        target.put("snapshots/new/1", [b"new"])
    assert type(caught.value) is kind
    assert caught.value.hint
    mount.faults()
    assert "snapshots/new/1" not in names(target) or target.get("snapshots/new/1", 9) == b"new"
    assert target.get("index/kept", 9) == b"kept"
    # Whatever was left half done: the same put succeeds, and one version has one writer.
    target.put("snapshots/new/1", [b"new"])
    assert target.get("snapshots/new/1", 9) == b"new"
    assert not target.put_if_absent("snapshots/new/1", [b"other"])


def test_without_links_one_creates_an_object_and_the_next_is_told(
    mount: FaultyMount, target: MountTarget
) -> None:
    mount.faults(link="EPERM")
    assert target.put_if_absent("snapshots/a/1", [b"mine"])
    assert not target.put_if_absent("snapshots/a/1", [b"other"])
    assert target.get("snapshots/a/1", 9) == b"mine"


def test_bytes_that_the_server_lost_in_the_middle_are_found_where_all_is_read_back(
    mount: FaultyMount,
) -> None:
    data = os.urandom(4 * MiB)
    target = MountTarget("nas", mount.path, read_back_whole=True)
    mount.faults(write="hole")
    with pytest.raises(TargetUnreachableError, match="gives back other bytes"):
        target.put("packs/aa/a", [data[:MiB], data[MiB:]])
    assert target.stat("packs/aa/a") is None
    mount.faults()
    target.put("packs/aa/a", [data[:MiB], data[MiB:]])
    assert target.get("packs/aa/a", 4 * MiB) == data
    target.close()


def test_an_operation_that_hangs_is_given_up_and_what_follows_is_told_at_once(
    mount: FaultyMount, target: MountTarget, impatient: MountTarget, tmp_path: Path
) -> None:
    mount.faults(read="hang", open="hang")
    buffer = bytearray(b"----")
    begun = time.monotonic()
    with pytest.raises(TargetUnreachableError, match=r"hangs: .*did not answer for 1 s") as caught:
        impatient.read_into("index/kept", 0, memoryview(buffer))
    assert "umount" in caught.value.hint
    assert time.monotonic() - begun < 60
    # Also another target on it, as each job opens its own.
    again = MountTarget("nas", mount.path)
    before = mount_threads()
    begun = time.monotonic()
    for operation in (
        lambda: again.put("index/b", [b"x"]),
        lambda: again.stat("index/kept"),
        lambda: list(target.list("")),
    ):
        with pytest.raises(TargetUnreachableError, match="has not answered for"):
            operation()
    again.close()
    # They would wait for three minutes each, and say so in other words.
    assert time.monotonic() - begun < 60
    assert mount_threads() <= before
    # Another mount is not concerned.
    other = MountTarget("other", tmp_path, require_mount=False)
    other.put("index/a", [b"x"])
    other.close()
    # The server comes back: so does the target, and nothing was written into old buffers.
    mount.faults()
    answering(target)
    assert buffer == b"----"


def test_a_put_that_was_given_up_never_comes_true_with_other_bytes(
    mount: FaultyMount, target: MountTarget, impatient: MountTarget
) -> None:
    content = bytearray(b"first" * 1000)
    mount.faults(write="hang")
    with pytest.raises(TargetUnreachableError, match="hangs"):
        impatient.put("packs/aa/a", [content])
    content[:] = b"other" * 1000
    mount.faults()
    answering(target)
    time.sleep(0.5)
    assert names(target) == ["index/kept"]
    target.put("packs/aa/a", [content])
    assert target.get("packs/aa/a", 9999) == content


def test_closing_a_target_whose_mount_hangs_waits_no_longer_than_for_anything(
    mount: FaultyMount, target: MountTarget
) -> None:
    closing = MountTarget("nas", mount.path, hang_seconds=4.0)
    assert closing.get("index/kept", 9) == b"kept"
    mount.faults(flush="hang", release="hang", getattr="hang")
    begun = time.monotonic()
    closing.close()
    assert time.monotonic() - begun < 60


def test_another_disk_under_the_same_path_is_refused(tmp_path: Path) -> None:
    share = tmp_path / "nas"
    with mounted_tmpfs(share):
        prepare_target(NasTarget("nas", share / "models"))
        target = MountTarget("nas", share / "models")
        target.put("repository.json", [b"this one"])
        target.put("index/a", [b"x"])
    for content in (b"another", b""):
        with mounted_tmpfs(share):
            (share / "models").mkdir()
            if content:
                (share / "models/repository.json").write_bytes(content)
            with pytest.raises(TargetUnreachableError, match="another disk or share is mounted"):
                target.put("index/b", [b"x"])
            with pytest.raises(TargetUnreachableError, match="another disk or share is mounted"):
                list(target.list(""))
            assert not (share / "models/index").exists()
    # The right one, mounted anew, has another device number and the same repository.
    with mounted_tmpfs(share):
        (share / "models").mkdir()
        (share / "models/repository.json").write_bytes(b"this one")
        target.put("index/b", [b"x"])
        assert [info.name for info in target.list("index/")] == ["index/b"]
    target.close()


def test_a_target_reads_and_writes_as_the_daemon_has_it_through_a_slow_mount(
    mount: FaultyMount,
) -> None:
    target = open_target(NasTarget("nas", mount.path, hang_seconds=30.0))
    mount.faults(fsync="hang")
    threading.Timer(0.5, mount.faults).start()
    target.put("packs/aa/a", [b"slow"])
    assert target.get("packs/aa/a", 9) == b"slow"
    target.close()
