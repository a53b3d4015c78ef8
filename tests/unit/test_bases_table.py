"""Which base is found for a chunk, and that nobody waits for one in vain."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from backupd.capture.cutting import Segment
from backupd.codec.blob import Numbers
from backupd.operations.bases import BaseTable, Chunks
from backupd.repository.tree import ChunkRef
from tests.support.stored import Store

SEGMENT = Segment(0, 100, b"key of a tensor.", Numbers(4, True))
OTHER = Segment(0, 100, b"another tensor's", Numbers(4, True))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "repo")


def ref(number: int) -> ChunkRef:
    return ChunkRef(bytes([number]) * 32, 100)


def key_of(table: BaseTable, path: bytes) -> ChunkRef | None:
    candidate = table.candidate(path, SEGMENT, 0)
    return table.key_of(candidate) if candidate else None


def test_a_file_of_the_same_name_comes_before_a_newer_one(store: Store) -> None:
    table = BaseTable(store.writer)
    for number, name in enumerate((b"rank0.pt", b"rank1.pt")):
        table.add_file(b"step-1/" + name, [(SEGMENT, 0)], [ref(number)])
        table.settle(ref(number).blob_id, b"")
    assert key_of(table, b"step-2/rank0.pt") == ref(0)
    assert key_of(table, b"step-2/other.pt") == ref(1)
    assert table.candidate(b"step-2/rank0.pt", OTHER, 0) is None


def test_the_base_of_a_delta_is_taken_in_its_place(store: Store) -> None:
    table = BaseTable(store.writer)
    table.add_file(b"a", [(SEGMENT, 0)], [ref(2)])
    table.settle(ref(2).blob_id, ref(1).blob_id)
    assert key_of(table, b"a") == ref(1)


def test_what_was_lost_is_not_waited_for_by_the_one_who_stores_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backupd.operations.bases._WAIT_SECONDS", 30.0)
    table = BaseTable(store.writer)
    table.add_file(b"a", [(SEGMENT, 0)], [ref(1)], earlier=True)
    assert store.writer.claim(ref(1).blob_id)
    began = time.monotonic()
    assert key_of(table, b"a") is None
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("closes", [True, False])
def test_a_wait_ends_when_the_base_is_stored_or_the_work_is_over(
    store: Store, closes: bool
) -> None:
    table = BaseTable(store.writer)
    chunks: Chunks = [None]
    table.add_file(b"a", [(SEGMENT, 0)], chunks)
    found: list[ChunkRef | None] = []
    thread = threading.Thread(target=lambda: found.append(key_of(table, b"a")), daemon=True)
    thread.start()
    time.sleep(0.05)
    assert not found
    if closes:
        table.close()
    else:
        table.settle(ref(1).blob_id, b"")
        table.settle_ref(chunks, 0, ref(1))
    thread.join(60)
    assert found == [None if closes else ref(1)]
