"""Writers, forgetters and pruners on one store in every order: what is listed is whole.

The real writer, forget and prune run over a store in memory; after each of their operations
hypothesis decides who goes on, and how much time passes meanwhile.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from backupd.codec.chunking_parameters import ChunkingParameters
from backupd.codec.secrets import PUBLIC_MASTER_KEY
from backupd.config.settings import KeySettings, LocalTarget, Settings
from backupd.operations.installation import Installation
from backupd.operations.prune import prune
from backupd.repository import layout
from backupd.repository.copying import StaleIndexError
from backupd.repository.descriptor import Descriptor
from backupd.repository.index import Index
from backupd.repository.reachable import entries_of
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.records import BlobKind
from backupd.repository.repository import Repository
from backupd.repository.snapshots import SnapshotName, SnapshotRecord
from backupd.repository.tree import ChunkRef, FileType, Metadata, TreeEntry
from backupd.repository.tree_codec import TreeCutter, encode_entry
from backupd.repository.usage import Usage
from backupd.repository.writer import Writer
from backupd.targets.base import Target
from backupd.targets.memory import MemoryTarget
from tests.support.interleaving import Actor

GRACE = 100.0
DESCRIPTOR = Descriptor("0" * 32, False, ChunkingParameters())
# The contents that files may have; few, so that writers meet each other's and prune's blobs.
POOL = [bytes([number]) * 90 for number in range(6)]


class OneRepository(Installation):
    """An installation around one repository that is there already."""

    def __init__(self, repository: Repository, clock: Callable[[], float]) -> None:
        super().__init__(
            Settings(
                source=Path(),
                state_dir=Path(),
                host="box",
                key=KeySettings(encryption=False),
                targets={"memory": LocalTarget("memory", Path())},
                policies={},
                models={},
            ),
            environment={},
            clock=clock,
        )
        self._one = repository

    def repository(self, name: str) -> Repository:
        return self._one


def entry(number: int, blob_id: bytes, size: int) -> TreeEntry:
    metadata = Metadata(0o100644, 0, 0, 0, 0, 0, 0, size)
    return TreeEntry(b"%d" % number, FileType.FILE, metadata, chunks=(ChunkRef(blob_id, size),))


class Collection(RuleBasedStateMachine):
    """The store, who works on it, and what must be there."""

    pruners = 1

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.store = MemoryTarget(clock=lambda: self.now)
        self.actors: dict[str, Actor] = {}
        self.expected: dict[int, list[bytes]] = {}
        self.committing: dict[str, float] = {}
        self.forgetting: set[int] = set()
        self.used: set[int] = set()
        self.random = random.Random(0)
        self.count = 0
        self.lock = threading.Lock()

    def draw(self, size: int) -> bytes:
        with self.lock:
            return self.random.randbytes(size)

    def repository(self, target: Target) -> Repository:
        return Repository(target, DESCRIPTOR, PUBLIC_MASTER_KEY, self.draw)

    @property
    def folder(self) -> str:
        return self.repository(self.store).secrets.model_folder("box", "m")

    # -- what actors do ------------------------------------------------------------------------

    def write(
        self, target: Target, name: str, contents: list[bytes], index: Index | None = None
    ) -> None:
        for _ in range(3):
            repository = self.repository(target)
            writer = Writer(
                repository,
                index or repository.load_index(lambda message: None),
                clock=lambda: self.now,
                workers=1,
                grace_seconds=GRACE,
            )
            try:
                stream = writer.stream()
                cutter = TreeCutter()
                for number, content in enumerate(contents):
                    blob_id = stream.store_bytes(BlobKind.DATA, content)
                    line = encode_entry(entry(number, blob_id, len(content)))
                    cutter.add(b"%d" % number, line)
                trees = (stream.store_bytes(BlobKind.TREE, cutter.rest()),)
                stream.close()
                writer.finish()
                record = SnapshotRecord("box", "m", 0, self.now, b"/m", trees)
                self.committing[name] = self.now
                version = writer.commit(record).version
            except StaleIndexError:
                self.committing.pop(name, None)
                writer.abandon()
                index = None
                continue  # as take_snapshot does
            except BaseException:
                writer.abandon()
                raise
            self.committing.pop(name, None)
            assert version not in self.used, "a version number was used twice"
            self.used.add(version)
            self.expected[version] = contents
            return

    def start(self, name: str, work: Callable[[Target], None]) -> None:
        self.actors[name] = Actor(name, self.store, work)

    # -- the rules -----------------------------------------------------------------------------

    @initialize(contents=st.lists(st.sampled_from(POOL), min_size=1, max_size=4))
    def first(self, contents: list[bytes]) -> None:
        self.start("writer0", lambda target: self.write(target, "writer0", contents))
        self.run_to_end("writer0")

    @precondition(lambda self: sum(n.startswith("writer") for n in self.actors) < 2)
    @rule(contents=st.lists(st.sampled_from(POOL), min_size=1, max_size=4))
    def begin_snapshot(self, contents: list[bytes]) -> None:
        self.count += 1
        name = f"writer{self.count}"
        self.start(name, lambda target: self.write(target, name, contents))

    @precondition(lambda self: sum(n.startswith("prune") for n in self.actors) < self.pruners)
    @rule()
    def begin_prune(self) -> None:
        self.count += 1

        def work(target: Target) -> None:
            installation = OneRepository(self.repository(target), lambda: self.now)
            prune(installation, "memory", grace_seconds=GRACE)

        self.start(f"prune{self.count}", work)

    @precondition(lambda self: len(self.expected) > 1)
    @rule(data=st.data())
    def begin_forget(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.expected)))
        del self.expected[version]
        self.count += 1
        self.start(
            f"forget{self.count}",
            lambda target: self.repository(target).forget(SnapshotName(self.folder, version)),
        )

    @precondition(lambda self: self.actors)
    @rule(data=st.data(), steps=st.integers(1, 12))
    def go_on(self, data: st.DataObject, steps: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.actors)))
        for _ in range(steps):
            if self.step(name):
                return

    @precondition(lambda self: self.actors)
    @rule(data=st.data())
    def go_to_end(self, data: st.DataObject) -> None:
        self.run_to_end(data.draw(st.sampled_from(sorted(self.actors))))

    @rule(seconds=st.sampled_from([GRACE * 0.2, GRACE * 0.6, GRACE * 1.2]))
    def time_passes(self, seconds: float) -> None:
        # The one thing that is assumed: from looking again to listing is half the grace at most.
        for since in self.committing.values():
            seconds = min(seconds, since + GRACE * 0.49 - self.now)
        self.now += max(0.0, seconds)

    # -- what must hold ------------------------------------------------------------------------

    def step(self, name: str) -> bool:
        actor = self.actors[name]
        actor.step()
        if actor.done:
            del self.actors[name]
            self.committing.pop(name, None)
            if actor.failure is not None:
                raise AssertionError(f"{name} failed") from actor.failure
        if actor.done or actor.last[0] in ("delete", "put_if_absent"):
            self.look()
        return actor.done

    def run_to_end(self, name: str) -> None:
        while not self.step(name):
            pass

    def look(self) -> None:
        """Every version that is listed gives what was put into it, and all expected ones are."""
        repository = self.repository(self.store)
        listing = repository.list_snapshots()
        assert not listing.damaged
        listed = {s.record.version: s for s in listing.snapshots}
        assert self.expected.keys() <= listed.keys()
        finder = BlobFinder(
            repository, repository.load_index(lambda message: None), lambda message: None
        )
        reader = BlobReader(finder)
        for version, contents in self.expected.items():
            found = [
                bytes(reader.read(ref.blob_id))
                for item in list(entries_of(reader, listed[version].record))
                for ref in item.chunks
            ]
            assert found == contents, f"v{version} is not what was stored"

    def teardown(self) -> None:
        try:
            for name in list(self.actors):
                self.run_to_end(name)
            self.end_without_orphans()
        finally:
            for actor in self.actors.values():
                actor.abort()

    def end_without_orphans(self) -> None:
        for _ in range(3):
            self.now += GRACE * 1.1
            self.begin_prune()
            self.run_to_end(f"prune{self.count}")
        repository = self.repository(self.store)
        index, damaged = repository.read_index_objects()
        assert not damaged
        usage = Usage(index, ())
        finder = BlobFinder(repository, index, lambda message: None)
        for snapshot in repository.list_snapshots().snapshots:
            usage.add_snapshot(BlobReader(finder), snapshot.record)
        assert not usage.missing
        packs = {layout.pack_id_of(info.name) for info in self.store.list(layout.PACKS)}
        assert packs == {use.pack_id for use in usage.packs() if use.used_count}
        assert not list(self.store.list(layout.TOMBSTONES))


class TwoPruners(Collection):
    """As two boxes that share a target and prune it at the same hour."""

    pruners = 2


@pytest.fixture
def tiny_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backupd.repository.pack.PACK_TARGET_SIZE", 200)
    monkeypatch.setattr("backupd.repository.pack.PACK_CAPACITY", 1 << 14)
    monkeypatch.setattr("backupd.repository.prune_plan.SMALL_PACK", 100)


def run(machine: type[Collection], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.usefixtures("tiny_packs")
def test_two_writers_and_a_pruner_in_any_order_lose_nothing_that_is_listed() -> None:
    run(Collection, 60)


@pytest.mark.usefixtures("tiny_packs")
def test_two_pruners_at_once_lose_nothing_that_is_listed() -> None:
    run(TwoPruners, 30)


@pytest.mark.usefixtures("tiny_packs")
def test_an_index_that_names_a_deleted_pack_is_not_relied_on() -> None:
    machine = Collection()
    for name, content in (("writer1", POOL[0]), ("writer2", POOL[1])):
        machine.write(machine.store, name, [content])
    del machine.expected[1]
    repository = machine.repository(machine.store)
    repository.forget(SnapshotName(machine.folder, 1))
    installation = OneRepository(repository, lambda: machine.now)
    machine.now += GRACE * 1.1
    prune(installation, "memory", grace_seconds=GRACE)
    machine.now += GRACE * 1.1
    index, _ = repository.read_index_objects()
    prune(installation, "memory", grace_seconds=GRACE)
    # The pack of v1 is gone and so is its tombstone, but this index still names it, as one does
    # that another prune wrote at the same time.
    machine.write(machine.store, "writer3", [POOL[0]], index)
    machine.look()


@pytest.mark.torture
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("tiny_packs")
@pytest.mark.parametrize("machine", [Collection, TwoPruners])
def test_many_more_orders_lose_nothing_that_is_listed(machine: type[Collection]) -> None:
    run(machine, 600)
