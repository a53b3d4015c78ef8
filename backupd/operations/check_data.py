"""Reading packs whole: every blob is opened, and its id compared with its content."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from backupd.errors import BackupdError, DamagedError, StoppedError, TargetUnreachableError
from backupd.operations.diagnosis import Diagnosis
from backupd.operations.progress import Progress
from backupd.repository.layout import pack_name
from backupd.repository.pack import read_table
from backupd.repository.reader import BaseLostError, BlobFinder, BlobReader, Span
from backupd.repository.records import parse_table
from backupd.repository.repository import Repository
from backupd.repository.whole import find_whole


def read_packs(
    repository: Repository,
    found: Diagnosis,
    *,
    percent: float,
    threads: int,
    random: Callable[[int], bytes],
    progress: Progress,
    stop: threading.Event,
) -> None:
    """Open every blob of so many percent of the packs, at least one pack."""
    packs = [pack for pack in found.present if pack not in found.bad_packs]
    if percent < 100 and packs:
        # A hash under a key drawn now picks packs as evenly as any, without a list shuffled.
        from blake3 import blake3

        key = random(32)
        packs.sort(key=lambda pack: blake3(pack, key=key).digest())
        packs = packs[: max(1, round(len(packs) * percent / 100))]
    progress.begin("read data", sum(found.present[pack] for pack in packs))
    work: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for pack_id in packs:
        work.put(pack_id)
    failures: list[BaseException] = []

    def read_some() -> None:
        reader = BlobReader(BlobFinder(repository, found.index, lambda message: None))
        while not failures and not stop.is_set():
            try:
                pack_id = work.get_nowait()
            except queue.Empty:
                return
            try:
                _read_pack(repository, reader, found, pack_id)
            except TargetUnreachableError as error:
                failures.append(error)
            except BackupdError as error:
                found.bad_packs[pack_id] = found.find(pack_name(pack_id), error.message)
            except BaseException as error:
                failures.append(error)
            progress.advance(found.present[pack_id], 1)

    readers = [threading.Thread(target=read_some, daemon=True) for _ in range(threads)]
    for thread in readers:
        thread.start()
    for thread in readers:
        thread.join()
    if failures:
        raise failures[0]
    if stop.is_set():
        raise StoppedError("stopped; nothing was changed")


def _read_pack(
    repository: Repository, reader: BlobReader, found: Diagnosis, pack_id: bytes
) -> None:
    """Compare the pack's own table with its blobs, and its name with its bytes."""
    from blake3 import blake3

    size = found.present[pack_id]
    table = memoryview(read_table(repository.target, pack_id, size, repository.sealer))
    sealed = reader.read_span(Span(pack_id, 0, size, ()))
    digest = blake3(sealed).digest()
    damaged = False
    for record in parse_table(table, size):
        if record.base_id and not find_whole(
            found.index, record.base_id, plain=True, anywhere=True
        ):
            # The rest of what is no longer needed; the walk of the snapshots tells where it is.
            continue
        try:
            reader.open(record, sealed[record.offset : record.offset + record.sealed_size])
        except BaseLostError as error:
            found.lose_base(error.base_id, error.message)
        except DamagedError as error:
            damaged = True
            found.lose_copy(pack_id, record.blob_id, error.message)
    if not damaged and digest != pack_id:
        found.misnamed[pack_id] = found.find(
            pack_name(pack_id),
            "its bytes do not match its name, though every blob in it can be read",
        )
    found.add_read(size)
