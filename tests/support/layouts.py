"""What a look at a file promises whatever it holds, as functions that hold it to that."""

from __future__ import annotations

from backupd.capture.containers import Layout, ReadAt, identify
from backupd.capture.containers.bounded import READ_BUDGET_BYTES
from backupd.capture.containers.regions import MAX_NAME_CHARACTERS


def watched(data: bytes) -> ReadAt:
    """Reads `data`, and fails for whoever asks for what it does not hold, or for too much."""
    asked = 0

    def read_at(offset: int, length: int) -> bytes:
        nonlocal asked
        asked += length
        assert 0 <= offset <= offset + length <= len(data)
        assert asked <= READ_BUDGET_BYTES
        return data[offset : offset + length]

    return read_at


def check_layout(layout: Layout, size: int) -> None:
    """That the tensors of a file of `size` bytes can be cut by and named."""
    end = 0
    for tensor in layout.tensors:
        assert tensor.offset >= end
        assert tensor.size_bytes > 0
        end = tensor.offset + tensor.size_bytes
        assert tensor.width in (0, 1, 2, 4, 8)
        assert all(dimension >= 0 for dimension in tensor.shape)
        assert len(tensor.name) <= 2 * MAX_NAME_CHARACTERS
    assert end <= size
    assert len({tensor.name for tensor in layout.tensors}) == len(layout.tensors)


def checked_look(data: bytes) -> Layout | None:
    """Identify `data`, holding the reader and the layout to their promises."""
    layout = identify(watched(data), len(data), b"model.bin")
    if layout is not None:
        check_layout(layout, len(data))
    return layout
