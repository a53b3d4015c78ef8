"""`switch`: the folder becomes a version, nothing is lost, and a kill leaves no half."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.errors import BackupdError, UsageError
from backupd.operations import local_files, standing, swapping
from backupd.operations import switch as switching
from backupd.operations.resolve import resolve
from backupd.operations.switch import SwitchReport, find_version, switch, undone_version
from tests.support.killing import killed_in_child
from tests.support.switching import (
    attest,
    killed_at_step,
    steps_of,
    switched,
    two_versions,
    without_exchange,
)
from tests.support.world import MODEL, World, make_world, manifest_of

MOMENTS = 12


@pytest.fixture
def world(tmp_path: Path) -> World:
    return two_versions(tmp_path / "world")


def parent_of(world: World, version: int) -> int:
    with world.open() as installation:
        return resolve(installation, f"{MODEL}@v{version}").info.parent


def test_the_folder_becomes_the_version_and_back(world: World) -> None:
    report = switched(world, "v1")
    assert manifest_of(world.model_path) == world.expected[1]
    assert not report.saved_anew, "the present state was a version already"
    assert report.saved is not None
    assert report.saved.version == 2
    with world.open() as installation:
        model = world.settings.models[MODEL]
        assert undone_version(installation, model).info.version == 2
        switch(installation, model, undone_version(installation, model))
    assert manifest_of(world.model_path) == world.expected[2]
    assert world.snapshot().unchanged
    assert world.findings() == []


def test_a_switch_to_what_the_folder_is_does_nothing(world: World) -> None:
    switched(world, "v1")
    inode = world.model_path.stat().st_ino
    report = switched(world, "v1")
    assert report.already
    assert world.model_path.stat().st_ino == inode
    with world.open() as installation:
        undone = undone_version(installation, world.settings.models[MODEL])
    assert undone.info.version == 2, "and what an undo would go back to is still known"


def test_a_torn_checkpoint_that_cannot_be_saved_is_not_lost(world: World) -> None:
    torn = world.model_path / "last.safetensors"
    torn.write_bytes(b"\x40\0\0\0\0\0\0\0{")
    with pytest.raises(BackupdError, match=r"cannot be saved in whole: last\.safetensors"):
        switched(world, "v1")
    assert torn.exists()
    torn.unlink()
    switched(world, "v1")
    assert manifest_of(world.model_path) == world.expected[1]


def test_only_what_differs_is_fetched(world: World) -> None:
    weights = (world.model_path / "weights.bin").read_bytes()
    with (world.model_path / "checkpoint" / "optimizer.bin").open("r+b") as file:
        file.write(os.urandom(50))
    world.snapshot()
    inode = (world.model_path / "weights.bin").stat().st_ino
    report = switched(world, "v2")
    fetched = world.expected[2].keys()
    assert "weights.bin" in fetched
    assert report.fetched.files == 1, "all but one file was there"
    assert report.shared.files + report.copied.files == 26
    assert (world.model_path / "weights.bin").read_bytes() == weights
    # Another name of the same file is as good as a clone, since the old one is gone again.
    assert (world.model_path / "weights.bin").stat().st_nlink == 2
    assert report.shared.files or (world.model_path / "weights.bin").stat().st_ino != inode


def test_what_was_not_saved_is_saved_first_and_the_history_branches(world: World) -> None:
    (world.model_path / "unsaved").write_text("precious")
    mine = manifest_of(world.model_path)
    report = switched(world, "1")
    assert report.saved_anew
    assert report.saved is not None
    assert report.saved.version == 3
    world.expected[3], world.highest = mine, 3
    assert manifest_of(world.model_path) == world.expected[1]
    assert world.snapshot().unchanged, "what the folder was switched to is a version"
    (world.model_path / "branch").write_text("from v1")
    world.snapshot()
    assert parent_of(world, 4) == 1, "the next version stands on the one switched to"
    (world.model_path / "branch").write_text("on")
    world.snapshot()
    assert parent_of(world, 5) == 4, "and the one after on that"
    world.verify()


def test_what_no_snapshot_keeps_stays(world: World) -> None:
    model = replace(world.settings.models[MODEL], exclude=("cache/", "*.lock"))
    path = world.model_path
    (path / "cache").mkdir()
    (path / "cache" / "big").write_bytes(b"c" * 1000)
    (path / "logs" / "x.lock").write_text("held")
    os.mkfifo(path / "pipe")
    with world.open() as installation:
        report = switch(installation, model, find_version(installation, model, "v1"))
    assert report.carried == 4
    assert (path / "cache" / "big").read_bytes() == b"c" * 1000
    assert (path / "logs" / "x.lock").read_text() == "held"
    assert (path / "pipe").is_fifo()
    (path / "pipe").unlink()
    (path / "logs" / "x.lock").unlink()
    shutil.rmtree(path / "cache")
    given = manifest_of(path)
    changed = {name for name in given if given[name] != world.expected[1].get(name)}
    assert changed <= {"logs"}, "but for the times of folders in which something stayed"


def test_a_version_of_the_weights_leaves_the_rest_alone(world: World) -> None:
    (world.model_path / "w.npy").write_bytes(b"first")
    model = replace(world.settings.models[MODEL], scheme="params")
    with world.open() as installation:
        first = switching.take_snapshot(installation, model).snapshot
        (world.model_path / "w.npy").write_bytes(b"second")
        (world.model_path / "new.npy").write_bytes(b"more")
        assert first is not None
        version = find_version(installation, model, first.name)
        report = switch(installation, model, version)
        assert report.saved is not None
        assert report.saved.scheme == "params"
    assert (world.model_path / "w.npy").read_bytes() == b"first"
    assert not (world.model_path / "new.npy").exists()
    assert (world.model_path / "logs" / "train.log").exists()


@pytest.mark.parametrize("exchange", [True, False])
def test_whatever_the_moment_it_is_killed_the_folder_is_one_version_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    world = two_versions(tmp_path / "world")
    if not exchange:
        without_exchange(monkeypatch)
    now, ends = 2, set()
    steps = steps_of(lambda: switched(world, "v1"))
    switched(world, "v2")
    # Around the exchange lie the last steps; a third of the moments is drawn from them.
    rng = random.Random(7)
    late = [rng.randrange(steps - steps // 5, steps + 1) for _ in range(MOMENTS // 3)]
    for moment in [*late, *(rng.randrange(1, steps) for _ in range(MOMENTS - len(late)))]:
        wanted = 3 - now
        killed_at_step(moment, lambda to=wanted: switched(world, f"v{to}"))
        now = attest(world, at_once=exchange)
        ends.add(now == wanted)
    assert ends == {True, False}, "some were killed before the change and some after"
    world.verify()


def test_what_cannot_be_removed_is_named_and_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(folder: str) -> None:
        raise BackupdError(f"{folder} cannot be removed")

    monkeypatch.setattr(swapping, "remove", stuck)
    report = switched(world, "v1")
    assert "cannot be removed" in " ".join(report.notes)
    assert manifest_of(world.model_path) == world.expected[1]
    assert world.snapshot().unchanged, "a snapshot does not fail of it"
    assert [name for name in os.listdir(world.root) if name.startswith(".backupd")]
    monkeypatch.undo()
    assert attest(world, at_once=True) == 1


def test_what_is_written_meanwhile_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that changes between the last look and the exchange: all is put back."""
    log = world.model_path / "logs" / "train.log"
    real = swapping.rename_exchange

    def late(one: str, other: str) -> bool:
        if not log.read_bytes().endswith(b"late"):
            with log.open("ab") as file:
                file.write(b"late")
        return real(one, other)

    monkeypatch.setattr(swapping, "rename_exchange", late)
    with pytest.raises(BackupdError, match="was written to while"):
        switched(world, "v1")
    assert log.read_bytes().endswith(b"late")
    assert (world.model_path / "new" / "deep" / "file").exists()
    assert [n for n in os.listdir(world.root) if n.startswith(".backupd")] == []


@pytest.fixture
def writer(world: World) -> Iterator[subprocess.Popen[bytes]]:
    code = "import sys; f = open(sys.argv[1], 'r+b'); print(flush=True); sys.stdin.read()"
    place = str(world.model_path / "weights.bin")
    with subprocess.Popen(
        [sys.executable, "-c", code, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_trainer_that_writes_is_named_and_nothing_is_done(
    world: World, writer: subprocess.Popen[bytes]
) -> None:
    with pytest.raises(BackupdError, match=rf"weights.bin .*is being written.*{writer.pid}"):
        switched(world, "v1")
    assert manifest_of(world.model_path) == world.expected[2]
    report = switched(world, "v1", force=True)
    assert manifest_of(world.model_path) == world.expected[1]
    assert report.copied.files + report.fetched.files > 20
    assert report.shared.files == 0, "no file is shared with one who still writes"


def test_a_file_that_is_not_what_it_was_is_fetched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flipped byte under an unchanged time is what a dying disk gives."""
    weights = world.model_path / "weights.bin"
    found = weights.stat()
    real = local_files.LocalFiles.take

    def flipped(self: object, entry: object, place: object, *, may_link: bool) -> bool:
        with weights.open("r+b") as file:
            file.seek(100)
            file.write(b"?")
        os.utime(weights, ns=(found.st_mtime_ns, found.st_mtime_ns))
        return real(self, entry, place, may_link=may_link)  # type: ignore[arg-type]

    (world.model_path / "one-more").write_text("x")
    world.snapshot()
    monkeypatch.setattr(local_files.LocalFiles, "take", flipped)
    switched(world, "v2")
    assert manifest_of(world.model_path) == world.expected[2]


def test_the_folder_may_be_a_link_or_be_gone(world: World) -> None:
    real = world.root / "disk" / "real"
    real.parent.mkdir()
    world.model_path.rename(real)
    world.model_path.symlink_to(real)
    switched(world, "v1")
    assert world.model_path.is_symlink()
    assert manifest_of(real) == world.expected[1]
    shutil.rmtree(real)
    report = switched(world, "v2")
    assert report.saved is None
    assert manifest_of(real) == world.expected[2]


def test_a_mount_point_is_refused_with_a_sentence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: path == str(world.model_path))
    with pytest.raises(BackupdError, match="is where a filesystem is mounted"):
        switched(world, "v1")


def test_a_full_disk_leaves_the_folder_as_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(root: bytes, staged: bytes, paths: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(switching, "carry", full)
    with pytest.raises(BackupdError, match="No space left"):
        switched(world, "v1")
    assert attest(world, at_once=True) == 2


def test_a_version_of_another_model_is_refused(world: World) -> None:
    with world.open() as installation:
        model = replace(world.settings.models[MODEL], name="other")
        with pytest.raises(UsageError, match="not of other"):
            find_version(installation, model, f"{MODEL}@v1")


def test_two_switches_at_once_are_refused(world: World) -> None:
    with world.open() as installation, swapping.open_journal(installation, MODEL) as journal:
        assert journal is not None
        with pytest.raises(BackupdError, match="by another process"):
            switched(world, "v1")


def test_a_look_sees_every_change(tmp_path: Path) -> None:
    root = tmp_path / "x"
    (root / "a").mkdir(parents=True)
    (root / "a" / "f").write_text("1")
    seen = {standing.look_at(bytes(root)).digest}
    for change in (
        lambda: (root / "a" / "f").write_text("2!"),
        lambda: (root / "a" / "f").chmod(0o600),
        lambda: (root / "g").symlink_to("a"),
        lambda: ((root / "g").unlink(), (root / "g").symlink_to("b")),
        lambda: os.mkfifo(root / "p"),
        lambda: (root / "a" / "f").rename(root / "f"),
    ):
        change()
        digest = standing.look_at(bytes(root)).digest
        assert digest not in seen
        seen.add(digest)
    (tmp_path / "again").hardlink_to(root / "f")
    assert standing.look_at(bytes(root)).digest in seen, "another name elsewhere is no change"


def test_the_report_adds_up(world: World) -> None:
    report: SwitchReport = switched(world, "v1")
    files = report.shared.files + report.copied.files + report.fetched.files
    assert files == report.version.file_count
    sizes = report.shared.size_bytes + report.copied.size_bytes + report.fetched.size_bytes
    assert sizes == report.version.size_bytes


def test_a_user_who_is_not_root_loses_no_mode_and_no_read_only_folder(world: World) -> None:
    """What is removed has other names in the new folder, whose modes are the same file's."""
    # So that all is imported: the child may not be let to where Python lies.
    switched(world, "v1")
    world.findings()
    base = Path(tempfile.mkdtemp(prefix="backupd-switch-"))
    os.chown(base, 65534, 65534)

    def child() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        world = make_world(base / "world", size=50_000)
        kept = world.model_path / "read-only"
        (kept / "deep").mkdir(parents=True)
        (kept / "deep" / "file").write_text("kept")
        (kept / "deep" / "file").chmod(0o444)
        (kept / "deep").chmod(0o555)
        kept.chmod(0o555)
        world.snapshot()
        (world.model_path / "weights.bin").write_bytes(b"other")
        world.snapshot()
        for version in (1, 2, 1):
            switched(world, f"v{version}")
            assert manifest_of(world.model_path) == world.expected[version]
        assert world.listed() == [1, 2]
        assert [n for n in os.listdir(world.root) if n.startswith(".backupd")] == []

    try:
        assert not killed_in_child(child)
    finally:
        swapping.remove(str(base))
