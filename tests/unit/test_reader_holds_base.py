"""A base is opened once for what stands on it, and gives way to nothing that is read meanwhile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backupd.codec.blob import BlobHeader, Codec, Encoded
from backupd.codec.planes import PlaneEncoder, payload_bound
from backupd.repository.index import Location
from backupd.repository.read_order import alone, families
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.targets.local import FolderTarget
from tests.support.deltas import encode_delta
from tests.support.stored import Store

SIZE = 400_000


def store_series(store: Store, *, raw: bool) -> dict[bytes, bytes]:
    """A base, stored raw or as planes, and four chunks that stand on it: content by id."""
    rng = np.random.default_rng(raw)
    planes, out = PlaneEncoder(), bytearray(payload_bound(SIZE))
    if raw:
        base = rng.bytes(SIZE)
        encoded = Encoded(Codec.RAW, b"", BlobHeader(Codec.RAW).pack() + base)
    else:
        base = rng.standard_normal(SIZE // 4).astype("<f4").tobytes()
        written = planes.encode(base, 4, True, out)
        encoded = Encoded(Codec.PLANES, b"", BlobHeader(Codec.PLANES).pack() + out[:written])
    base_id = store.encoded(base, encoded)
    contents = {base_id: base}
    for _ in range(4):
        changed = np.frombuffer(base, "<u4").copy()
        changed += rng.integers(0, 1 << 14, changed.size, dtype=np.uint32)
        chunk = changed.tobytes()
        written = encode_delta(planes, chunk, base, 4, True, out)
        assert written
        header = BlobHeader(Codec.DELTA, base_id=base_id).pack()
        contents[store.encoded(chunk, Encoded(Codec.DELTA, base_id, header + out[:written]))] = (
            chunk
        )
    store.writer.finish()
    return contents


@pytest.mark.parametrize("raw", [False, True])
def test_a_family_is_read_with_one_read_of_its_base(
    raw: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "repository")
    contents = store_series(store, raw=raw)
    finder = BlobFinder(store.repository, store.writer.index, lambda message: None)
    locations: list[Location] = [finder.find(blob_id) for blob_id in contents]
    shared, others = families(locations)
    assert len(shared) == 1 and shared[0].wanted and not others
    reads = []
    read_into = FolderTarget.read_into

    def counted(self: FolderTarget, name: str, offset: int, out: memoryview) -> None:
        reads.append(name)
        read_into(self, name, offset, out)

    monkeypatch.setattr(FolderTarget, "read_into", counted)
    reader = BlobReader(finder)
    base_id = shared[0].base_id
    assert bytes(reader.hold_base(base_id)) == contents[base_id]
    for _ in range(2):
        for span in shared[0].deltas:
            record = span.records[0]
            assert bytes(reader.open(record, reader.read_span(span))) == contents[record.blob_id]
    assert len(reads) == 1 + 2 * 4
    # Another blob in between, and on demand without `hold_base`.
    fresh = BlobReader(finder)
    for blob_id, content in contents.items():
        assert bytes(fresh.read(blob_id)) == content
    assert (
        bytes(fresh.open(locations[1].record, fresh.read_span(alone(locations[1]))))
        == (contents[locations[1].record.blob_id])
    )
