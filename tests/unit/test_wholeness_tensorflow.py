"""TensorFlow's index says how long its data is, and whatever it says nothing breaks."""

from __future__ import annotations

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
