"""Reading packs whole: every blob is opened, and its id compared with its content.

A pack is read piece by piece, so memory is two blobs a thread. The larger deltas of some packs
are put off until these are read, and are then opened base by base: of a series of checkpoints
each base is opened once, not once for each delta that stands on it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from backupd.errors import (
    BackupdError,
    ColdError,
    DamagedError,
    StoppedError,
    TargetUnreachableError,
)
from backupd.operations.diagnosis import Diagnosis
from backupd.operations.progress import NoProgress, Progress
from backupd.repository.index import Location
from backupd.repository.layout import pack_name
from backupd.repository.pack import read_table
from backupd.repository.read_order import LEAST_ALONE, alone, whole_pack
from backupd.repository.reader import BaseLostError, BlobFinder, BlobReader
from backupd.repository.records import BlobRecord, parse_table
from backupd.repository.repository import Repository
from backupd.repository.whole import find_whole

Item = TypeVar("Item")

# So many packs (8 GiB) have their deltas remembered at once, a few megabytes of records.
_PACKS_A_TURN = 512


def read_packs(
    repository: Repository,
    found: Diagnosis,
    *,
    percent: float,
    threads: int,
    waiting: int = 0,
    random: Callable[[int], bytes],
    progress: Progress,
    stop: threading.Event,
) -> None:
    """Open every blob of so many percent of the packs, at least one pack.

    `threads` decode at once; `waiting` more have reads on their way, for a target that is far.
    """
    packs = [pack for pack in found.present.keys() - found.cold if pack not in found.bad_packs]
    if percent < 100 and packs:
        # A hash under a key drawn now picks packs as evenly as any, without a list shuffled.
        from blake3 import blake3

        key = random(32)
        packs.sort(key=lambda pack: blake3(pack, key=key).digest())
        packs = packs[: max(1, round(len(packs) * percent / 100))]
    progress.begin("read data", sum(found.present[pack] for pack in packs))
    reading = _Reading(repository, found, threads, waiting, progress, stop)
    for begin in range(0, len(packs), _PACKS_A_TURN):
        reading.read_packs(packs[begin : begin + _PACKS_A_TURN])
    if stop.is_set():
        raise StoppedError("stopped; nothing was changed")


def read_these(repository: Repository, found: Diagnosis, packs: Sequence[bytes]) -> None:
    """Open every blob of these packs, which are in `found.present` and its index."""
    _Reading(repository, found, 1, 0, NoProgress(), threading.Event()).read_packs(packs)


class _Reading:
    """Reads packs in threads; the deltas in them after that, those of one base together."""

    def __init__(
        self,
        repository: Repository,
        found: Diagnosis,
        threads: int,
        waiting: int,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self._repository = repository
        self._found = found
        self._threads = threads + waiting
        self._decoding = threading.Semaphore(threads)
        self._progress = progress
        self._stop = stop
        self._lock = threading.Lock()
        self._deltas: dict[bytes, list[Location]] = {}

    def read_packs(self, packs: Sequence[bytes]) -> None:
        """Read these packs whole. Raises `TargetUnreachableError`."""
        self._in_threads(packs, self._look_at_pack)
        by_base, self._deltas = self._deltas, {}
        self._in_threads(tuple(by_base.values()), self._open_family)

    def _in_threads(self, items: Sequence[Item], act: Callable[[BlobReader, Item], None]) -> None:
        work: queue.SimpleQueue[Item] = queue.SimpleQueue()
        for item in items:
            work.put(item)
        failures: list[BaseException] = []

        def take_some() -> None:
            reader = BlobReader(BlobFinder(self._repository, self._found.index, lambda note: None))
            while not failures and not self._stop.is_set():
                try:
                    act(reader, work.get_nowait())
                except queue.Empty:
                    return
                except BaseException as error:
                    failures.append(error)

        readers = [threading.Thread(target=take_some, daemon=True) for _ in range(self._threads)]
        for thread in readers:
            thread.start()
        for thread in readers:
            thread.join()
        if failures:
            raise failures[0]

    def _look_at_pack(self, reader: BlobReader, pack_id: bytes) -> None:
        try:
            self._read_pack(reader, pack_id)
        except TargetUnreachableError:
            raise
        except ColdError:
            self._found.cold.add(pack_id)  # since it was listed, or put there just now
        except BackupdError as error:
            self._found.bad_packs[pack_id] = self._found.find(pack_name(pack_id), error.message)
        self._progress.advance(self._found.present[pack_id], 1)

    def _read_pack(self, reader: BlobReader, pack_id: bytes) -> None:
        """Compare the pack's own table with its blobs, and its name with its bytes."""
        from blake3 import blake3

        found, repository = self._found, self._repository
        size = found.present[pack_id]
        table = memoryview(read_table(repository.target, pack_id, size, repository.sealer))
        hasher = blake3()
        sound = True
        later: list[BlobRecord] = []
        for span in whole_pack(pack_id, size, parse_table(table, size)):
            sealed = reader.read_span(span)
            with self._decoding:
                hasher.update(sealed)
            for record in span.records:
                if record.base_id and record.sealed_size >= LEAST_ALONE:
                    later.append(record)
                    continue
                begin = record.offset - span.offset
                part = sealed[begin : begin + record.sealed_size]
                sound = self._open(reader, Location(pack_id, record), part) and sound
        as_named = hasher.digest() == pack_id
        for record in later:
            location = Location(pack_id, record)
            if as_named:
                with self._lock:
                    self._deltas.setdefault(record.base_id, []).append(location)
            else:
                sound = self._open(reader, location) and sound
        if sound and not as_named:
            found.misnamed[pack_id] = found.find(
                pack_name(pack_id),
                "its bytes do not match its name, though every blob in it can be read",
            )
        found.add_read(size)

    def _open_family(self, reader: BlobReader, deltas: Sequence[Location]) -> None:
        base_id = deltas[0].record.base_id
        if find_whole(self._found.index, base_id, plain=True, anywhere=True):
            with suppress(DamagedError):  # each delta tells it
                reader.hold_base(base_id)
        for location in deltas:
            if self._stop.is_set():
                return
            self._open(reader, location)

    def _open(
        self, reader: BlobReader, location: Location, sealed: memoryview | None = None
    ) -> bool:
        """Open one blob, read again where its sealed bytes are not given; whether it is sound."""
        record, found = location.record, self._found
        if record.base_id and not find_whole(
            found.index, record.base_id, plain=True, anywhere=True
        ):
            # The rest of what is no longer needed; the walk of the snapshots tells where it is.
            return True
        try:
            given = reader.read_span(alone(location)) if sealed is None else sealed
            with self._decoding:
                reader.open(record, given)
        except ColdError:
            return True  # it stands on a base that cannot be read now
        except BaseLostError as error:
            found.lose_base(error.base_id, error.message)
        except DamagedError as error:
            found.lose_copy(location.pack_id, record.blob_id, error.message)
            return False
        return True
