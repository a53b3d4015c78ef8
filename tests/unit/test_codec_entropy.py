"""Huffman coding almost alone: ordinary frames, chosen where matches save nothing."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import zstandard

from backupd.codec.entropy import HuffmanCompressor
from backupd.codec.plane_decoder import PlaneDecoder
from backupd.codec.planes import PlaneEncoder, payload_bound

RNG = np.random.default_rng(11)
PARAMETERS = {"min_match": 7, "hash_log": 6, "window_log": 17}
WEIGHTS = (RNG.standard_normal(300_000) * 0.02).astype("<f4")


def exponents(numbers: np.ndarray) -> np.ndarray:
    return ((numbers.view("<u4") >> 23) & 0xFF).astype(np.uint8)


def unpacked(frame: bytes, size: int) -> bytes:
    reader = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    return reader.decompress(frame, max_output_size=size)


@pytest.mark.parametrize(
    "plane",
    [
        exponents(WEIGHTS),
        np.zeros(100_000, np.uint8),
        RNG.integers(0, 256, 100_000).astype(np.uint8),
        np.repeat(RNG.integers(0, 256, 300).astype(np.uint8), 1000),
        np.array([7], np.uint8),
    ],
    ids=["exponents", "constant", "noise", "runs", "one byte"],
)
def test_frames_are_ordinary_and_state_their_size(plane: np.ndarray) -> None:
    frame = HuffmanCompressor(**PARAMETERS).compress(plane.data).tobytes()
    assert unpacked(frame, plane.size) == plane.tobytes()
    assert zstandard.frame_content_size(zstandard.MAGIC_NUMBER.to_bytes(4, "little") + frame) == (
        plane.size
    )


def test_exponents_come_near_their_entropy() -> None:
    plane = exponents(WEIGHTS)
    shares = np.bincount(plane, minlength=256)[np.bincount(plane, minlength=256) > 0] / plane.size
    entropy_bytes = -(shares * np.log2(shares)).sum() * plane.size / 8
    frame = HuffmanCompressor(**PARAMETERS).compress(plane.data)
    assert len(frame) < 1.04 * entropy_bytes


def test_a_frame_is_not_changed_by_the_one_before() -> None:
    compressor = HuffmanCompressor(**PARAMETERS)
    first = compressor.compress(exponents(WEIGHTS).data).tobytes()
    compressor.compress(np.zeros(1 << 20, np.uint8).data)
    assert compressor.compress(exponents(WEIGHTS).data).tobytes() == first


def test_matches_are_left_out_only_where_they_save_nothing() -> None:
    encoder = PlaneEncoder()
    alone = encoder.source(WEIGHTS.tobytes(), 4, True, 0)
    rows = encoder.source(np.tile(WEIGHTS[:16], 20_000).tobytes(), 4, True, 0)
    assert alone is not None and rows is not None
    assert encoder.plan(alone).huffman == {3}
    assert not encoder.plan(rows).huffman


def test_without_the_library_the_same_comes_back_in_as_many_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chunk = WEIGHTS.tobytes()
    out, other = (bytearray(payload_bound(len(chunk))) for _ in range(2))
    written = PlaneEncoder().encode(chunk, 4, True, out)
    monkeypatch.setitem(sys.modules, "zstandard._cffi", None)
    assert HuffmanCompressor.made(**PARAMETERS) is None
    size = PlaneEncoder().encode(chunk, 4, True, other)
    assert 0 < written <= size * 1.001
    for payload in (out[:written], other[:size]):
        back = bytearray(len(chunk))
        PlaneDecoder().decode(payload, back)
        assert bytes(back) == chunk


def test_a_parameter_that_zstd_refuses_is_told() -> None:
    with pytest.raises(LookupError, match="refuses 99"):
        HuffmanCompressor(min_match=99, hash_log=6, window_log=17)
