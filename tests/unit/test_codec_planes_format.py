"""Payloads read by a second reader, written from docs/codec.md with nothing of the project's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zstandard

from backupd.codec.plane_decoder import PlaneDecoder
from backupd.codec.planes import PlaneEncoder, payload_bound
from tests.support.deltas import encode_delta, ordered_delta

RNG = np.random.default_rng(3)
EXCHANGES = (
    *((0, 1), (2, 3), (4, 5), (6, 7)),
    *((0, 2), (1, 3), (4, 6), (5, 7), (1, 2), (5, 6)),
    *((0, 4), (1, 5), (2, 6), (3, 7), (2, 4), (3, 5), (1, 2), (3, 4), (5, 6)),
)


def second_reader(payload: bytes, size: int, base: bytes = b"") -> bytes:
    """docs/codec.md, step by step, an element at a time."""
    width, flags, head, number = payload[:4]
    count, tail = divmod(size - head, width)
    bits = 8 * width
    mask = (1 << bits) - 1
    at = 4 + 7 * number
    ends = payload[at : at + head + tail]
    at += head + tail
    bases = [
        int.from_bytes(base[head + i * width : head + (i + 1) * width], "little")
        for i in range(count if base else 0)
    ]
    words = [0] * count
    for entry in range(number):
        method, first, planes, *length = payload[4 + 7 * entry : 11 + 7 * entry]
        stored = payload[at : (at := at + int.from_bytes(bytes(length), "little"))]
        if method == 1:
            reader = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
            stored = reader.decompress(stored, max_output_size=count * planes)
            if flags & 4:
                stored = unsorted(stored, bases, bits, count)
        elif method == 2:
            stored = stored * count
        for i in range(count):
            value = int.from_bytes(stored[i * planes : (i + 1) * planes], "little")
            words[i] |= value << (8 * first)
    if flags & 2:
        bias = int.from_bytes(b"\x80" * width, "little")
        words = [(d - bias + b) & mask for d, b in zip(words, bases, strict=True)]
    if flags & 1:
        words = [(w >> 1) | (w << (bits - 1)) & mask for w in words]
    body = b"".join(w.to_bytes(width, "little") for w in words)
    return ends[:head] + body + ends[head:]


def unsorted(plane: bytes, bases: list[int], bits: int, count: int) -> bytes:
    keys = [(b >> 52 if bits == 64 else b << 1 >> (bits - 8)) & 0xFF for b in bases]
    out, columns = bytearray(plane), count // 8
    for column in range(columns):
        key = [keys[row * columns + column] for row in range(8)]
        swaps = []
        for a, b in EXCHANGES:
            swaps.append(key[a] > key[b])
            if swaps[-1]:
                key[a], key[b] = key[b], key[a]
        for (a, b), swap in reversed(list(zip(EXCHANGES, swaps, strict=True))):
            if swap:
                i, j = a * columns + column, b * columns + column
                out[i], out[j] = out[j], out[i]
    return bytes(out)


def bf16(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> bytes:
    return (values.astype("f4").view("u4") >> 16).astype("u2").tobytes()


def numbers(kind: str, count: int, step: float) -> tuple[bytes, bytes]:
    base = RNG.standard_normal(count) * 0.02
    changed = base + RNG.standard_normal(count) * step
    if kind == "bf16":
        return tuple(
            (x.astype("f4").view("u4") >> 16).astype("u2").tobytes() for x in (changed, base)
        )  # type: ignore[return-value]
    return changed.astype(kind).tobytes(), base.astype(kind).tobytes()


def magnitudes(chunk: bytes, width: int) -> bytes:
    words = np.frombuffer(chunk, f"<u{width}")
    return (words & np.array((1 << (8 * width - 1)) - 1, words.dtype)).tobytes()


KINDS = [("f2", 2), ("bf16", 2), ("f4", 4), ("f8", 8)]


@pytest.mark.parametrize(("kind", "width"), KINDS)
@pytest.mark.parametrize("phase", [0, 1])
def test_a_second_reader_reads_plain_planes(kind: str, width: int, phase: int) -> None:
    chunk = b"x" * phase + numbers(kind, 3001, 0)[0] + b"y" * (width - 1)
    out = bytearray(payload_bound(len(chunk)))
    written = PlaneEncoder().encode(chunk, width, True, out, phase=phase)
    assert written
    assert second_reader(bytes(out[:written]), len(chunk)) == chunk


@pytest.mark.parametrize(("kind", "width"), KINDS)
@pytest.mark.parametrize("ordered", [False, True])
def test_a_second_reader_reads_deltas(kind: str, width: int, ordered: bool) -> None:
    chunk, base = numbers(kind, 40_003, 1e-5)
    out = bytearray(payload_bound(len(chunk)))
    encode = ordered_delta if ordered else encode_delta
    written = encode(PlaneEncoder(), chunk, base, width, True, out)
    assert written
    payload = bytes(out[:written])
    if ordered:
        assert payload[1] & 4  # the order was used, so it is proved here
    assert second_reader(payload, len(chunk), base) == chunk
    back = bytearray(len(chunk))
    PlaneDecoder().decode(payload, back, base=base)
    assert back == chunk


@pytest.mark.parametrize(("kind", "width"), KINDS)
def test_a_look_at_the_base_decides_as_its_whole_does(kind: str, width: int) -> None:
    for step in (1e-9, 1e-5, 1.0):
        chunk, base = numbers(kind, 90_001, step)
        looked, read = bytearray(payload_bound(len(chunk))), bytearray(payload_bound(len(chunk)))
        sizes = [
            encode_delta(PlaneEncoder(), chunk, base, width, True, out, shown=shown)
            for out, shown in ((looked, True), (read, False))
        ]
        assert sizes[0] == sizes[1] and looked == read


def test_an_order_is_kept_where_it_pays_and_left_where_it_does_not() -> None:
    encoder = PlaneEncoder()
    for kind, width, pays in (("bf16", 2, True), ("f4", 4, False)):
        chunk, base = numbers(kind, 90_001, 1e-4)
        out = bytearray(payload_bound(len(chunk)))
        assert encode_delta(encoder, chunk, base, width, True, out)
        assert bool(out[1] & 4) == pays


@pytest.mark.parametrize(("kind", "width"), KINDS)
def test_numbers_of_one_sign_are_not_rotated(kind: str, width: int) -> None:
    chunk, _ = numbers(kind, 40_003, 0)
    for data, negative in ((chunk, True), (magnitudes(chunk, width), False)):
        out = bytearray(payload_bound(len(data)))
        written = PlaneEncoder().encode(data, width, True, out)
        assert written and bool(out[1] & 1) == (negative and width < 8)
        assert second_reader(bytes(out[:written]), len(data)) == data


def test_one_number_below_zero_among_many_comes_back_too() -> None:
    chunk = bytearray(magnitudes(numbers("f4", 90_001, 0)[0], 4))
    chunk[45_000 * 4 + 3] |= 0x80
    out = bytearray(payload_bound(len(chunk)))
    written = PlaneEncoder().encode(chunk, 4, True, out)
    assert written and second_reader(bytes(out[:written]), len(chunk)) == chunk


GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "codec2" / "payloads.npz")


@pytest.mark.parametrize(
    ("name", "flags"), [("signed", 1), ("one sign", 0), ("difference", 2), ("ordered", 6)]
)
def test_payloads_that_were_made_once_are_read(name: str, flags: int) -> None:
    payload, chunk, base = (
        GOLDEN[f"{name}.{part}"].tobytes() for part in ("payload", "chunk", "base")
    )
    assert payload[1] == flags
    assert second_reader(payload, len(chunk), base) == chunk
    back = bytearray(len(chunk))
    PlaneDecoder().decode(payload, back, base=base or None)
    assert back == chunk


def test_a_difference_that_saves_nothing_is_left_to_the_plain_form() -> None:
    chunk, _ = numbers("f4", 50_000, 0)
    _, other = numbers("f4", 50_000, 0)
    assert encode_delta(PlaneEncoder(), chunk, other, 4, True, bytearray(300_000)) == 0


def test_what_does_not_shrink_is_not_worth_it() -> None:
    noise = RNG.bytes(100_000)
    assert PlaneEncoder().encode(noise, 4, True, bytearray(payload_bound(100_000))) == 0


def test_an_unchanged_chunk_is_a_handful_of_bytes() -> None:
    chunk, _ = numbers("f4", 50_000, 0)
    out = bytearray(payload_bound(len(chunk)))
    assert 0 < encode_delta(PlaneEncoder(), chunk, chunk, 4, True, out) < 64
