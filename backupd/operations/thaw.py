"""Packs in an archive class: which of them a restore needs, asking for them, waiting for them.

Nothing is kept of what was asked: the store knows, and the next run asks it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from backupd.config.settings import S3Target
from backupd.errors import ColdError, DamagedError, StoppedError
from backupd.operations.catalog import ResolvedSnapshot
from backupd.operations.installation import Installation
from backupd.operations.progress import NoProgress, Progress
from backupd.operations.restore import RestoreRequest
from backupd.operations.selection import select
from backupd.repository.layout import pack_name
from backupd.repository.reachable import chunks_of
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.tree import FileType, TreeEntry
from backupd.repository.tree_codec import decode_tree
from backupd.targets.s3_classes import ARCHIVES, PRICES_OF, thawing
from backupd.targets.s3_cold import ColdBucket, ObjectState, Warmth

# A restore of a terabyte takes hours, and may have to be run again.
DAYS = 7
_THREADS = 16
_LOOK_SECONDS = 60.0
_GB = 1e9


@dataclass(frozen=True, slots=True)
class ThawPlan:
    """What a restore needs and cannot read now. Sizes in bytes.

    `packs` are still to be asked for, `asked` were asked for before. `hours` is the longest that
    the tier takes by the store's promise, `dollars` what it costs to ask for all of `packs`; both
    are 0 where no promise is known. `unknown` says that what else is needed is seen only when
    these are thawed.
    """

    target: str
    tier: str
    packs: tuple[ObjectState, ...]
    asked: tuple[ObjectState, ...]
    hours: float
    dollars: float
    unknown: bool
    prices_of: str = PRICES_OF
    days: int = DAYS

    @property
    def empty(self) -> bool:
        """Whether everything can be read."""
        return not self.packs and not self.asked

    @property
    def size_bytes(self) -> int:
        """The bytes of all packs that are not thawed."""
        return sum(pack.size_bytes for pack in (*self.packs, *self.asked))


def is_archived(installation: Installation, snapshot: ResolvedSnapshot) -> bool:
    """Whether the target is one whose packs are put into an archive class."""
    settings = installation.settings.targets[snapshot.repository.name]
    return isinstance(settings, S3Target) and settings.storage_class in ARCHIVES


def plan_thaw(
    installation: Installation,
    snapshot: ResolvedSnapshot,
    request: RestoreRequest,
    *,
    tier: str = "standard",
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> ThawPlan:
    """Look which packs the restore needs, and ask the store how each stands.

    Costs a HEAD a pack. Raises `TargetError` and `StoppedError`.
    """
    progress = progress or NoProgress()
    stop = stop or threading.Event()
    name = snapshot.repository.name
    settings = installation.settings.targets[name]
    if not isinstance(settings, S3Target):
        return ThawPlan(name, tier, (), (), 0.0, 0.0, False)
    progress.begin("look for what is to be thawed")
    finder = BlobFinder(
        snapshot.repository, snapshot.repository.load_index(progress.note), progress.note
    )
    needed = _Needed(finder)
    packs = sorted(pack_name(pack) for pack in needed.packs(snapshot, request))

    bucket = ColdBucket(settings)

    def look(pack: str) -> ObjectState | None:
        if stop.is_set():
            return None
        state = bucket.state(pack)
        progress.advance(0, 1)
        return state

    try:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="thaw") as pool:
            states = [state for state in pool.map(look, packs) if state is not None]
    finally:
        bucket.close()
    if stop.is_set():
        raise StoppedError("stopped; nothing was asked for")
    cold = tuple(state for state in states if state.warmth is Warmth.COLD)
    asked = tuple(state for state in states if state.warmth is Warmth.THAWING)
    hours, dollars = estimate(cold or asked, tier)
    return ThawPlan(name, tier, cold, asked, hours, dollars if cold else 0.0, needed.unknown)


def estimate(packs: tuple[ObjectState, ...], tier: str) -> tuple[float, float]:
    """The hours that thawing takes at most, and what it costs in dollars; 0 where not known."""
    hours = dollars = 0.0
    for pack in packs:
        found = thawing(pack.storage_class, tier)
        if found is not None:
            hours = max(hours, found.hours)
            dollars += found.dollars_per_gb * pack.size_bytes / _GB + found.dollars_per_request
    return hours, dollars


def ask(
    installation: Installation,
    plan: ThawPlan,
    *,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Ask that the plan's packs be thawed. Raises `TargetError` and `StoppedError`; what was
    asked for by then stays asked for."""
    progress = progress or NoProgress()
    stop = stop or threading.Event()
    settings = installation.settings.targets[plan.target]
    assert isinstance(settings, S3Target)
    progress.begin("ask for thawing", sum(pack.size_bytes for pack in plan.packs))
    bucket = ColdBucket(settings)

    def one(pack: ObjectState) -> None:
        if not stop.is_set():
            bucket.thaw(pack, tier=plan.tier, days=plan.days)
            progress.advance(pack.size_bytes, 1)

    try:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="thaw") as pool:
            for _ in pool.map(one, plan.packs):
                continue
    finally:
        bucket.close()
    if stop.is_set():
        raise StoppedError("stopped; what was asked for is thawed all the same")


def wait(
    installation: Installation,
    plan: ThawPlan,
    *,
    progress: Progress | None = None,
    stop: threading.Event,
    sleep: Callable[[float], object] | None = None,
) -> None:
    """Return when every pack of the plan can be read. Looks at the first that cannot each minute.

    Raises `TargetError` and `StoppedError`.
    """
    progress = progress or NoProgress()
    settings = installation.settings.targets[plan.target]
    assert isinstance(settings, S3Target)
    progress.begin("wait for thawing", plan.size_bytes)
    bucket = ColdBucket(settings)
    try:
        for pack in (*plan.packs, *plan.asked):
            while bucket.state(pack.name).warmth is not Warmth.READY:
                (sleep or stop.wait)(_LOOK_SECONDS)
                if stop.is_set():
                    raise StoppedError("stopped; the store goes on thawing")
            progress.advance(pack.size_bytes, 1)
    finally:
        bucket.close()


class _Needed:
    """Collects the packs that a restore reads. `unknown` is set where a tree is cold itself."""

    def __init__(self, finder: BlobFinder) -> None:
        self.unknown = False
        self._finder = finder
        self._reader = BlobReader(finder)
        self._found: set[bytes] = set()

    def packs(self, snapshot: ResolvedSnapshot, request: RestoreRequest) -> set[bytes]:
        """The ids of the packs; what is missing or damaged is left to the restore to name."""
        entries = select(self._entries(snapshot), request.include, request.exclude)
        for entry in entries:
            if entry.type is FileType.FILE:
                try:
                    self._add_file(entry)
                except ColdError:
                    self.unknown = True
                except DamagedError:
                    continue
        return self._found

    def _entries(self, snapshot: ResolvedSnapshot) -> Iterator[TreeEntry]:
        for tree in snapshot.stored.record.trees:
            try:
                self._add(tree)
                yield from decode_tree(bytes(self._reader.read(tree)))
            except ColdError:
                self.unknown = True
            except DamagedError:
                continue

    def _add_file(self, entry: TreeEntry) -> None:
        if entry.chunk_list:
            self._add(entry.chunk_list)
        for ref in chunks_of(self._reader, entry):
            self._add(ref.blob_id)

    def _add(self, blob_id: bytes) -> None:
        location = self._finder.find(blob_id)
        self._found.add(location.pack_id)
        if location.record.base_id:
            self._found.add(self._finder.find(location.record.base_id, plain=True).pack_id)
