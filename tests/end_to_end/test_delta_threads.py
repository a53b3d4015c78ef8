"""Workers that share tensors, wait for each other, fail, are stopped, or are lied to."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from backupd.config.settings import LimitsSettings, Settings
from backupd.errors import BackupdError, StoppedError, TargetFullError
from backupd.operations.progress import NoProgress
from backupd.operations.resolve import resolve
from backupd.operations.restore import RestoreRequest, restore
from backupd.operations.snapshot import take_snapshot
from backupd.targets.base import Target
from tests.support.checkpoints import (
    assert_no_chains,
    deltas,
    records,
    trained,
    weights,
    write_safetensors,
)
from tests.support.world import (
    MODEL,
    Countdown,
    GatedTarget,
    World,
    make_world,
    manifest_of,
    scratch,
)
from tests.support.world import small_packs as small_packs

COUNT = 300_000


class Threads(World):
    """A world whose limit is its own."""

    threads = 2

    @property
    def settings(self) -> Settings:
        limits = LimitsSettings(threads=self.threads)
        return dataclasses.replace(World.settings.fget(self), limits=limits)  # type: ignore[attr-defined]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Threads]:
    with scratch(tmp_path / "world") as root:
        made = make_world(root, size=1000)
        yield Threads(made.root, made.targets)


class Watching(NoProgress):
    """Calls `seen` with all bytes that were advanced so far, from whichever thread it is."""

    def __init__(self, seen: Callable[[int], None]) -> None:
        self._seen = seen
        self._total = 0
        self._lock = threading.Lock()

    def advance(self, done_bytes: int, done_items: int = 0) -> None:
        with self._lock:
            self._total += done_bytes
            self._seen(self._total)


def running(prefix: str) -> int:
    return sum(thread.name.startswith(prefix) for thread in threading.enumerate())


def write(world: World, step: int, *, tensors: int = 4, folder: str = "checkpoint-1") -> Path:
    values = {f"w.{number}": weights(number, COUNT) for number in range(tensors)}
    if step:
        values = {name: trained(value, step) for name, value in values.items()}
    path = world.model_path / folder / "model.safetensors"
    write_safetensors(path, values)
    return path


@pytest.mark.parametrize("threads", [1, 3])
def test_as_many_threads_work_as_the_limit_says(world: Threads, threads: int) -> None:
    world.threads = threads
    write(world, 0)
    seen: set[int] = set()
    world.snapshot(progress=Watching(lambda total: seen.add(running("store-"))))
    assert max(seen) + 1 == threads  # the one that takes the snapshot does as they do
    write(world, 1)
    world.snapshot()
    with world.open() as installation, scratch(world.root / "out") as out:
        seen.clear()
        watching = Watching(lambda total: seen.add(running("restore-")))
        snapshot = resolve(installation, f"{MODEL}@latest")
        restore(installation, snapshot, RestoreRequest(to=out), progress=watching)
        assert max(seen) == threads
    assert not running("store-") and not running("restore-")


def test_what_several_workers_have_at_once_is_stored_once(world: Threads) -> None:
    world.threads = 4
    same = weights(1, COUNT)
    for step, values in enumerate((same, trained(same, 1))):
        for shard in range(12):
            path = world.model_path / f"step-{step}" / f"{shard}.safetensors"
            write_safetensors(path, {f"layer.{shard}": values})
    world.snapshot()
    world.verify()
    large = [record for record in records(world) if record.plain_size == 4 * COUNT]
    assert len({record.blob_id for record in large}) == len(large) == 2
    assert_no_chains(world)


def test_a_base_that_another_worker_is_storing_is_waited_for(
    world: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backupd.operations.bases._WAIT_SECONDS", 100.0)
    world.threads = 4
    for step in range(4):
        write(world, step, tensors=3, folder=f"checkpoint-{step}")
    began = time.monotonic()
    world.snapshot()
    assert time.monotonic() - began < 90
    assert len(deltas(world)) == 9
    world.verify()
    assert_no_chains(world)


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("number", [1, 4, 9])
def test_a_full_target_ends_all_workers_at_once(world: Threads, number: int) -> None:
    write(world, 0)
    world.snapshot()
    for step in range(1, 4):
        write(world, step, folder=f"checkpoint-{step + 1}")

    def full() -> None:
        raise TargetFullError("the disk is full")

    fatal = Countdown(number, full)

    def wrap(target: Target) -> Target:
        return GatedTarget(target, before=fatal)

    began = time.monotonic()
    with world.open(wrap) as installation, pytest.raises(BackupdError, match="is full"):
        take_snapshot(installation, world.settings.models[MODEL])
    assert time.monotonic() - began < 60 and not running("store-")
    world.snapshot()
    world.verify()
    assert_no_chains(world)


@pytest.mark.parametrize("after", [1, 2_000_000, 9_000_000])
def test_a_stop_in_the_middle_of_a_file_is_obeyed(world: Threads, after: int) -> None:
    write(world, 0)
    world.snapshot()
    for step in range(1, 4):
        write(world, step, folder=f"checkpoint-{step + 1}")
    stop = threading.Event()
    watching = Watching(lambda total: stop.set() if total >= after else None)
    began = time.monotonic()
    with world.open() as installation, pytest.raises(StoppedError):
        model = world.settings.models[MODEL]
        take_snapshot(installation, model, progress=watching, stop=stop)
    assert time.monotonic() - began < 60 and not running("store-")
    world.snapshot()
    world.verify()
    assert_no_chains(world)


@pytest.mark.parametrize("how", ["overwrite", "replace"])
def test_a_file_that_changes_while_it_is_read_is_read_again(world: Threads, how: str) -> None:
    """What of the first reading was stored is torn, and may be nobody's base under a wrong name."""
    write(world, 0)
    world.snapshot()
    path = write(world, 1, tensors=8)
    done = threading.Event()

    def change(total: int) -> None:
        if total < 2_500_000 or done.is_set():
            return
        done.set()
        if how == "overwrite":
            with path.open("r+b") as file:
                file.seek(path.stat().st_size // 3)
                file.write(trained(weights(9, 2 * COUNT), 2).data)
        else:
            times = path.parent.stat()
            path.unlink()
            write(world, 3, tensors=8)
            os.utime(path.parent, ns=(times.st_atime_ns, times.st_mtime_ns))

    with world.open() as installation:
        model = world.settings.models[MODEL]
        report = take_snapshot(installation, model, progress=Watching(change))
    assert done.is_set() and not report.notes and report.snapshot is not None
    world.highest = report.snapshot.version
    world.expected[world.highest] = manifest_of(world.model_path)
    world.verify()
    write(world, 4, tensors=8)
    world.snapshot()
    world.verify()
    assert deltas(world)
    assert world.findings() == []
    assert_no_chains(world)


def test_a_file_that_is_cut_short_while_it_is_read_stays_as_it_was(world: Threads) -> None:
    write(world, 0)
    world.snapshot()
    whole = manifest_of(world.model_path)["checkpoint-1/model.safetensors"]
    path = write(world, 1, tensors=8)

    def cut(total: int) -> None:
        if total >= 2_500_000:
            os.truncate(path, min(path.stat().st_size, 3_000_000))

    with world.open() as installation:
        model = world.settings.models[MODEL]
        report = take_snapshot(
            installation, model, labels={"forced": "yes"}, progress=Watching(cut)
        )
    assert report.partial and report.snapshot is not None
    assert "kept as v1 has it" in report.snapshot.incomplete[0]
    with scratch(world.root / "out") as out:
        world.restore(report.snapshot.version, out)
        assert manifest_of(out)["checkpoint-1/model.safetensors"] == whole
    assert world.findings() == []


def test_a_file_that_never_holds_still_is_named_and_not_listed(world: Threads) -> None:
    path = write(world, 0)

    def change(total: int) -> None:
        with path.open("r+b") as file:
            file.seek(path.stat().st_size - 100)
            file.write(np.random.default_rng(total).bytes(100))

    with world.open() as installation:
        model = world.settings.models[MODEL]
        report = take_snapshot(installation, model, progress=Watching(change))
    assert report.snapshot is not None and "changed while" in report.notes[0]
    with scratch(world.root / "out") as out:
        world.restore(report.snapshot.version, out)
        assert "checkpoint-1/model.safetensors" not in manifest_of(out)


@pytest.mark.parametrize("what", ["as it was", "overwritten", "deleted", "renamed", "a folder"])
def test_a_base_is_read_where_it_is_right(world: Threads, what: str) -> None:
    path = write(world, 0)
    world.snapshot()
    if what == "overwritten":
        with path.open("r+b") as file:
            file.seek(1 << 16)
            file.write(bytes(path.stat().st_size - (1 << 16)))
    elif what == "renamed":
        path.parent.rename(world.model_path / "checkpoint-9")
    elif what != "as it was":
        path.unlink()
    if what == "a folder":
        path.mkdir()
    # It comes before the other, which would be the newest of these tensors otherwise.
    write(world, 1, folder="checkpoint-0")
    reads: list[str] = []

    def wrap(target: Target) -> Target:
        return GatedTarget(target, before=lambda verb, name: reads.append(verb), reads=True)

    manifest = manifest_of(world.model_path)
    with world.open(wrap) as installation:
        report = take_snapshot(installation, world.settings.models[MODEL])
    assert report.snapshot is not None
    world.expected[report.snapshot.version] = manifest
    assert len(deltas(world)) == 4
    from_target = reads.count("read_into")
    # The tree, the index and the layout are read from there in any case.
    assert (from_target < 4) == (what == "as it was")
    world.verify()
