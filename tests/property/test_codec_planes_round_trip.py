"""Any bytes come back from planes and deltas, and no payload can make a reader misbehave."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.codec.plane_decoder import PlaneDecoder
from backupd.codec.plane_format import MAX_HEADER
from backupd.codec.planes import PlaneEncoder, payload_bound
from backupd.errors import DamagedError
from tests.support.deltas import encode_delta, ordered_delta

ENCODER, DECODER = PlaneEncoder(), PlaneDecoder()

layouts = st.tuples(st.sampled_from([1, 2, 4, 8]), st.booleans(), st.integers(0, 7)).map(
    lambda t: (t[0], t[1], t[2] % t[0])
)


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    """Bytes of every texture: noise, numbers near each other, runs, and joins of these."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        rng = np.random.default_rng(draw(st.integers(0, 1000)))
        size = draw(st.integers(0, 3000))
        kind = draw(st.sampled_from(["noise", "f2", "f4", "f8", "i8", "run"]))
        if kind == "noise":
            parts.append(rng.bytes(size))
        elif kind == "run":
            parts.append(bytes([draw(st.integers(0, 255))]) * size)
        elif kind == "i8":
            parts.append(rng.integers(-300, 300, size).astype("i8").tobytes())
        else:
            parts.append((rng.standard_normal(size) * 0.02).astype(kind).tobytes())
    return b"".join(parts) + draw(st.binary(max_size=9))


def decoded(payload: bytes, size: int, base: bytes | None = None) -> bytes:
    out = bytearray(size)
    DECODER.decode(payload, out, base=base)
    return bytes(out)


@given(chunks(), layouts)
def test_a_chunk_comes_back_from_its_planes(chunk: bytes, layout: tuple[int, bool, int]) -> None:
    width, rotate, phase = layout
    out = bytearray(payload_bound(len(chunk)))
    written = ENCODER.encode(chunk, width, rotate, out, phase=phase)
    if written:
        assert written < len(chunk)
        assert decoded(bytes(out[:written]), len(chunk)) == chunk


@given(chunks(), layouts, st.integers(0, 1000), st.integers(0, 7))
def test_a_chunk_comes_back_from_its_difference(
    base: bytes, layout: tuple[int, bool, int], seed: int, offset: int
) -> None:
    width, rotate, phase = layout
    changed = np.frombuffer(base, np.uint8).copy()
    rng = np.random.default_rng(seed)
    where = rng.random(changed.size) < 0.1
    changed[where] += rng.integers(0, 4, int(where.sum()), dtype=np.uint8)
    frame = bytearray(offset) + changed.tobytes()  # at any address
    chunk = memoryview(frame)[offset:]
    out = bytearray(payload_bound(len(chunk)))
    written = encode_delta(ENCODER, chunk, base, width, rotate, out, phase=phase)
    if written:
        back = bytearray(len(chunk))
        DECODER.decode(out[:written], back, base=base)
        assert back == chunk
        plain = bytearray(payload_bound(len(chunk)))
        alone = ENCODER.encode(chunk, width, rotate, plain, phase=phase) or len(chunk)
        assert written <= alone + MAX_HEADER


def sample_payload(delta: bool) -> tuple[bytes, bytes, bytes]:
    rng = np.random.default_rng(1)
    base = (rng.standard_normal(40_000) * 0.02).astype("f4")
    chunk = (base + rng.standard_normal(40_000).astype("f4") * 1e-5).tobytes()
    out = bytearray(payload_bound(len(chunk)))
    if delta:
        written = ordered_delta(ENCODER, chunk, base.tobytes(), 4, True, out)
    else:
        written = ENCODER.encode(chunk, 4, True, out)
    assert written
    return bytes(out[:written]), chunk, base.tobytes()


PLAIN_PAYLOAD, PLAIN_CHUNK, _ = sample_payload(delta=False)
DELTA_PAYLOAD, DELTA_CHUNK, DELTA_BASE = sample_payload(delta=True)


@settings(max_examples=500)
@given(
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 40),
)
def test_a_changed_payload_gives_bytes_or_says_it_is_damaged(
    delta: bool, changes: list[tuple[int, int]], cut: int
) -> None:
    payload = bytearray(DELTA_PAYLOAD if delta else PLAIN_PAYLOAD)
    for at, value in changes:
        payload[at if at < 200 else len(payload) - at] = value
    del payload[len(payload) - cut :]
    out = bytearray(len(PLAIN_CHUNK))
    try:
        DECODER.decode(payload, out, base=DELTA_BASE if delta else None)
    except DamagedError:
        pass
    # The next payload is not touched by what the last one left behind.
    assert decoded(DELTA_PAYLOAD, len(DELTA_CHUNK), DELTA_BASE) == DELTA_CHUNK


@settings(max_examples=500)
@given(st.binary(max_size=300), st.integers(0, 5000))
def test_arbitrary_bytes_are_damaged_or_decode(payload: bytes, size: int) -> None:
    try:
        DECODER.decode(payload, bytearray(size))
    except DamagedError:
        pass


@pytest.mark.parametrize("window_log", [24, 27])
def test_a_frame_that_asks_for_a_large_window_is_refused(window_log: int) -> None:
    parameters = zstandard.ZstdCompressionParameters(
        format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False, window_log=window_log
    )
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = stream.compress(bytes(1000)) + stream.flush()
    group = bytes([1, 0, 1]) + len(frame).to_bytes(4, "little")
    with pytest.raises(DamagedError, match="decompress"):
        DECODER.decode(bytes([1, 0, 0, 1]) + group + frame, bytearray(1000))


def test_a_delta_without_its_base_is_refused() -> None:
    with pytest.raises(DamagedError, match="base"):
        DECODER.decode(DELTA_PAYLOAD, bytearray(len(DELTA_CHUNK)))
    with pytest.raises(DamagedError, match="base"):
        DECODER.decode(PLAIN_PAYLOAD, bytearray(len(PLAIN_CHUNK)), base=PLAIN_CHUNK)
    with pytest.raises(DamagedError, match="length"):
        DECODER.decode(DELTA_PAYLOAD, bytearray(len(DELTA_CHUNK)), base=DELTA_BASE[:-1])
