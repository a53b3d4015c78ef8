"""Cuts: a second chunker, written from docs/format.md, and what equal content must give."""

from __future__ import annotations

import itertools
import random

import hypothesis.strategies as st
import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings

from backupd.codec.chunking import Chunker
from backupd.codec.chunking_parameters import ChunkingParameters

KEY = bytes(range(32))
SMALL = ChunkingParameters(64, 256, 1024, 11, 9)
COARSE = ChunkingParameters(4096, 16384, 65536, 16, 12)
EASIEST = ChunkingParameters(32, 64, 200, 8, 8)


def cuts(parameters: ChunkingParameters, data: bytes, key: bytes = KEY) -> list[int]:
    chunker, found, view = Chunker(parameters, key), [], memoryview(data)
    while view:
        size = chunker.find_cut(view, 0, final=True)
        assert size
        found.append(size)
        view = view[size:]
    return found


def chunks(data: bytes) -> set[bytes]:
    found = cuts(COARSE, data)
    ends = itertools.accumulate(found)
    return {data[end - size : end] for size, end in zip(found, ends, strict=True)}


def slow_cuts(parameters: ChunkingParameters, data: bytes, key: bytes = KEY) -> list[int]:
    """docs/format.md, a byte at a time."""
    words = blake3(key).digest(40)
    *m, c = (int.from_bytes(words[at : at + 8], "little") for at in range(0, 40, 8))

    def g(b: int) -> int:
        t = 167 * b % 256
        t ^= t >> 4
        return 77 * t % 256

    def holds(d: bytes, length: int, bits: int) -> bool:
        if sum(g(d[length - 1 - k]) << k for k in range(8)) % 256:
            return False
        h = c
        for i in range(4):
            at = length - 32 + 8 * i
            h += int.from_bytes(d[at : at + 8], "little") * (m[i] | 1)
        return bits == 8 or h % 2**64 >> 64 - (bits - 8) == 0

    found, at = [], 0
    while at < len(data):
        d = data[at : at + parameters.max_size]
        size = len(d)
        for length in range(parameters.min_size, len(d)):
            early = length < parameters.normal_size
            if holds(d, length, parameters.hard_bits if early else parameters.easy_bits):
                size = length
                break
        found.append(size)
        at += size
    return found


contents = st.one_of(
    st.binary(max_size=3000),
    st.builds(
        lambda seed, size: random.Random(seed).randbytes(size), st.integers(), st.integers(0, 9000)
    ),
    st.builds(
        lambda run, times: run * times, st.binary(min_size=1, max_size=40), st.integers(0, 200)
    ),
)


@settings(max_examples=60, deadline=None)
@given(contents, st.sampled_from([SMALL, EASIEST]))
def test_cuts_are_those_of_the_specification(data: bytes, parameters: ChunkingParameters) -> None:
    assert cuts(parameters, data) == slow_cuts(parameters, data)


@settings(max_examples=80, deadline=None)
@given(contents)
def test_chunks_are_no_shorter_than_the_least_and_no_longer_than_the_most(data: bytes) -> None:
    found = cuts(SMALL, data)
    assert sum(found) == len(data)
    assert all(SMALL.min_size <= size <= SMALL.max_size for size in found[:-1])


@settings(max_examples=80, deadline=None)
@given(contents, st.data())
def test_a_cut_found_piece_by_piece_is_the_one_found_at_once(
    data: bytes, draw: st.DataObject
) -> None:
    view = memoryview(data)
    chunker = Chunker(SMALL, KEY)
    whole = chunker.find_cut(view, 0, final=True) if data else 0
    seen = filled = size = 0
    while not size and filled < len(data):
        seen = filled
        filled = min(len(data), filled + draw.draw(st.integers(1, 700)))
        size = chunker.find_cut(view[:filled], seen, final=filled == len(data))
    assert size == whole


@pytest.mark.parametrize("at", [0, 1, 150_001, 399_999])
@pytest.mark.parametrize("put", [b"x", bytes(1000)])
def test_after_an_insertion_nearly_all_chunks_are_those_of_before(at: int, put: bytes) -> None:
    data = np.random.default_rng(5).bytes(2_000_000)
    before, after = chunks(data), chunks(data[:at] + put + data[at:])
    shared = sum(map(len, before & after))
    assert shared >= len(data) - 6 * COARSE.max_size


def test_content_cuts_in_the_mean_where_the_bits_say() -> None:
    found = cuts(COARSE, np.random.default_rng(6).bytes(8_000_000))
    mean = 8_000_000 / len(found)
    assert COARSE.normal_size * 0.8 < mean < COARSE.normal_size + 2**COARSE.easy_bits * 1.5


def test_another_key_cuts_elsewhere() -> None:
    data = np.random.default_rng(7).bytes(300_000)
    assert cuts(COARSE, data) == cuts(COARSE, data)
    assert cuts(COARSE, data) != cuts(COARSE, data, bytes(32))


@pytest.mark.parametrize(
    "wrong",
    [(31, 64, 128, 9, 8), (64, 32, 128, 9, 8), (64, 128, 100, 9, 8), (64, 128, 256, 8, 9),
     (64, 128, 1 << 25, 20, 18), (64, 128, 256, 41, 9), (64, 128, 256, 9, 7)],
)  # fmt: skip
def test_parameters_that_no_chunker_or_pack_could_work_with_are_refused(
    wrong: tuple[int, int, int, int, int],
) -> None:
    assert not ChunkingParameters(*wrong).valid()
    assert ChunkingParameters().valid() and SMALL.valid()
