"""A file is cut without a gap, and a tensor the same way wherever it lies."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
from hypothesis import given

from backupd.capture.containers.regions import Layout, TensorRegion, make_layout
from backupd.capture.cutting import PIECE_SIZE, Segment, segments_of
from backupd.operations.bases import pieces_of

SIZES = st.sampled_from([4, 8, 1000, 4096, 300_000, 1 << 20, PIECE_SIZE, PIECE_SIZE + 4])


def layout_of(
    tensors: Sequence[tuple[str, int, int]], *, begin: int = 0, end: int = 0
) -> tuple[Layout, int]:
    """A layout of (dtype, size, gap before), with so many bytes before and behind them."""
    regions, at = [], begin
    for number, (dtype, size, gap) in enumerate(tensors):
        at += gap
        shape = (size // 4,) if dtype == "f32" else (size,)
        regions.append(TensorRegion(f"t{number}", dtype, shape, at, size))
        at += size
    return make_layout("safetensors", regions, at + end), at + end


TENSORS = st.lists(
    st.tuples(st.sampled_from(["f32", "u8"]), SIZES, st.sampled_from([0, 4, 63, 512, 513])),
    max_size=12,
)


@given(tensors=TENSORS, begin=st.integers(0, 300), end=st.integers(0, 300))
def test_segments_follow_each_other_from_the_first_byte_to_the_last(
    tensors: list[tuple[str, int, int]], begin: int, end: int
) -> None:
    layout, size = layout_of(tensors, begin=begin, end=end)
    segments = list(segments_of(layout, size))
    assert [s.offset for s in segments] == [
        sum(s.size_bytes for s in segments[:n]) for n in range(len(segments))
    ]
    assert sum(segment.size_bytes for segment in segments) == size
    keyed = [segment for segment in segments if segment.key]
    for tensor in layout.tensors:
        holder = next(s for s in keyed if s.offset <= tensor.offset < s.offset + s.size_bytes)
        assert tensor.offset + tensor.size_bytes <= holder.offset + holder.size_bytes
        assert (tensor.offset - holder.offset) % max(1, holder.numbers.width) == 0
    for segment in keyed:
        assert (pieces_of(segment) - 1) * PIECE_SIZE < segment.size_bytes
        assert pieces_of(segment) * PIECE_SIZE >= segment.size_bytes


@given(tensors=TENSORS.filter(len), begin=st.integers(0, 1000))
def test_tensors_that_move_together_keep_their_keys(
    tensors: list[tuple[str, int, int]], begin: int
) -> None:
    def keys(begin: int) -> list[tuple[bytes, int]]:
        layout, size = layout_of(tensors, begin=begin)
        return [(s.key, s.size_bytes) for s in segments_of(layout, size) if s.key]

    assert keys(0) == keys(begin)


def key_of(name: str, dtype: str, shape: tuple[int, ...], size: int) -> Segment:
    layout = make_layout("npy", [TensorRegion(name, dtype, shape, 0, size)], size)
    (segment,) = segments_of(layout, size)
    return segment


def test_another_name_type_or_shape_is_another_tensor() -> None:
    found = [
        key_of("a", "f32", (10, 20), 800),
        key_of("b", "f32", (10, 20), 800),
        key_of("a", "i32", (10, 20), 800),
        key_of("a", "f32", (20, 10), 800),
    ]
    assert len({segment.key for segment in found}) == 4


def test_a_file_of_which_nothing_is_known_is_one_run_and_an_empty_one_none() -> None:
    (segment,) = segments_of(None, 100)
    assert (segment.offset, segment.size_bytes, segment.key) == (0, 100, b"")
    assert list(segments_of(None, 0)) == []
