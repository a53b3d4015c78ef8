"""TensorFlow's index says how long its data is, and whatever it says nothing breaks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backupd.capture.containers.bounded import BoundedFile, LimitError, MalformedError
from backupd.capture.wholeness.files import judge_file
from backupd.capture.wholeness.tensorflow import check_message, data_sizes
from backupd.capture.wholeness.verdict import Verdict

GOLDEN = Path(__file__).parents[1] / "golden"
INDEX = (GOLDEN / "tensorflow" / "ckpt.index").read_bytes()
DATA = (GOLDEN / "tensorflow" / "ckpt.data-00000-of-00001").read_bytes()


def bounded(data: bytes) -> BoundedFile:
    return BoundedFile(lambda offset, length: data[offset : offset + length], len(data))


def test_the_index_knows_the_length_of_the_data() -> None:
    assert data_sizes(bounded(INDEX)) == {0: len(DATA)}


@pytest.mark.parametrize("end", [0, 10, 47, 48, 100, len(INDEX) - 1])
def test_a_cut_index_is_none(end: int) -> None:
    with pytest.raises(MalformedError):
        data_sizes(bounded(INDEX[:end]))


def test_a_compressed_index_is_not_judged() -> None:
    footer = INDEX[-48:]
    place, shift, value = 0, 0, []
    number = 0
    while len(value) < 4:
        number |= (footer[place] & 0x7F) << shift
        shift += 7
        if footer[place] < 0x80:
            value.append(number)
            number = shift = 0
        place += 1
    offset, size = value[2], value[3]
    packed = bytearray(INDEX)
    packed[offset + size] = 1
    with pytest.raises(LimitError):
        data_sizes(bounded(bytes(packed)))


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def block(*entries: tuple[int, bytes, bytes]) -> bytes:
    """Entries of bytes that the key shares with the one before, the rest of it, and the value."""
    return b"".join(
        varint(shared) + varint(len(rest)) + varint(len(value)) + rest + value
        for shared, rest, value in entries
    ) + bytes(4)


def index(data: bytes, handles: int = 1) -> bytes:
    """An index whose every handle points at the one block `data`."""
    handle = varint(0) + varint(len(data))
    top = block(*((0, b"k", handle) for _ in range(handles)))
    footer = varint(0) * 2 + varint(len(data) + 5) + varint(len(top))
    magic = (0xDB4775248B80FB57).to_bytes(8, "little")
    return data + bytes(5) + top + bytes(5) + footer.ljust(40, b"\0") + magic


def test_a_long_key_that_many_entries_share_costs_nothing() -> None:
    many = [(0, b"x" * (4 << 20), b"\x28\1")] + [((4 << 20) - 1, b"y", b"\x28\2")] * 50_000
    started = time.process_time()
    assert data_sizes(bounded(index(block(*many)))) == {0: 2}
    assert time.process_time() - started < 5


def test_one_block_named_again_and_again_is_not_read_for_ever() -> None:
    once = index(block(*[(0, b"k", b"")] * 1000))
    assert data_sizes(bounded(once)) == {0: 0}
    with pytest.raises(LimitError, match="more tensors"):
        data_sizes(bounded(index(block(*[(0, b"k", b"")] * 1000), handles=300)))


def test_a_message_of_very_many_fields_is_believed() -> None:
    assert judge_file(lambda at, n: (b"\x08\1" * (n // 2 + 1))[:n], 1 << 30, b"saved_model.pb") == (
        Verdict.WHOLE,
        "",
    )


def test_an_entry_with_fields_without_end_is_not_looked_into() -> None:
    entry = b"".join(varint(number << 3) + b"\1" for number in range(1, 20_000))
    with pytest.raises(LimitError, match="entry"):
        data_sizes(bounded(index(block((0, b"k", entry)))))


@given(st.integers(0, len(INDEX) - 1), st.integers(0, 255), st.integers(0, len(INDEX)))
@example(len(INDEX) - 20, 255, len(INDEX))
def test_whatever_an_index_says_nothing_breaks(place: int, byte: int, end: int) -> None:
    data = bytearray(INDEX)
    data[place] = byte
    try:
        sizes = data_sizes(bounded(bytes(data[:end])))
    except MalformedError:
        return
    assert all(size >= 0 for size in sizes.values())


@given(st.binary(max_size=200))
def test_whatever_a_message_is_nothing_breaks(data: bytes) -> None:
    try:
        check_message(bounded(data))
    except MalformedError:
        return


NAMES = ["last.pt", "a.npz", "w.h5", "m.safetensors", "m.gguf", "x.npy", "saved_model.pb", "a.json",
         "o.pkl", "c.index"]  # fmt: skip
CONTAINERS = [path.read_bytes() for path in sorted((GOLDEN / "containers").glob("*.*"))
              if path.suffix not in (".py", ".json")]  # fmt: skip


@given(st.data())
def test_whatever_a_file_holds_it_is_judged(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(CONTAINERS)))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    name = data.draw(st.sampled_from(NAMES)).encode()
    found = judge_file(lambda offset, length: cut[offset : offset + length], len(cut), name)
    assert found.verdict in Verdict and bool(found.reason) == (found.verdict is not Verdict.WHOLE)
