"""The figures of a difference are those that float64 arithmetic over the whole gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from backupd.operations import diff_numbers
from backupd.operations.diff_numbers import (
    ELEMENTS,
    Figures,
    Sums,
    add_bytes,
    add_numbers,
    add_same,
    number_kind,
)

PLAIN = {
    "f64": "<f8",
    "f32": "<f4",
    "f16": "<f2",
    "f64_be": ">f8",
    "f32_be": ">f4",
    "f16_be": ">f2",
    "i8": "i1",
    "u8": "u1",
    "i16": "<i2",
    "u16": "<u2",
    "i32": "<i4",
    "u32": "<u4",
    "i64": "<i8",
    "u64": "<u8",
    "i64_be": ">i8",
    "c64": "<c8",
    "c128": "<c16",
    "c64_be": ">c8",
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few hundred elements are several blocks."""
    monkeypatch.setattr(diff_numbers, "_BLOCK_ELEMENTS", 64)


def measured(dtype: str, old: bytes, new: bytes, cuts: tuple[int, ...] = ()) -> Figures:
    """The figures, added up from parts that end at these elements."""
    kind = number_kind(dtype)
    assert kind is not None
    whole = Sums()
    begin = 0
    for end in (*cuts, len(new) // kind.width):
        part = slice(begin * kind.width, end * kind.width)
        sums = Sums()
        if old[part] == new[part]:
            add_same(sums, new[part], kind)
        else:
            add_numbers(sums, old[part], kind, new[part], kind)
        whole.add(sums)
        begin = end
    return whole.figures(ELEMENTS)


def expected(a: NDArray[np.generic], b: NDArray[np.generic]) -> Figures:
    """The same by numpy over all elements at once, in float64 or exact integers."""
    differs = (a != b) & ~(np.isnan(a) & np.isnan(b))
    finite = np.isfinite(a) & np.isfinite(b)
    if a.dtype.kind in "iu":
        apart = [abs(int(x) - int(y)) for x, y in zip(a, b, strict=True)]
        distance = np.array(apart, np.float64)
    else:
        wide = np.complex128 if a.dtype.kind == "c" else np.float64
        distance = np.abs(a[finite].astype(wide) - b[finite].astype(wide))
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    x, y = a[finite].astype(wide), b[finite].astype(wide)
    dot = float(np.vdot(x, y).real)
    norms = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    cosine = dot / norms[0] / norms[1] if all(norms) else float(norms[0] == norms[1])
    if not len(distance):
        return Figures(ELEMENTS, len(a), int(differs.sum()), int((differs & ~finite).sum()))
    return Figures(
        ELEMENTS,
        len(a),
        int(differs.sum()),
        int((differs & ~finite).sum()),
        float(distance.max()),
        float(distance.mean()),
        cosine,
    )


def assert_close(found: Figures, wanted: Figures) -> None:
    assert (found.count, found.changed, found.non_finite) == (
        wanted.count,
        wanted.changed,
        wanted.non_finite,
    )
    for name in ("largest", "mean", "cosine"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert one == pytest.approx(other, rel=1e-12, abs=1e-12 if name == "cosine" else 0)


@settings(max_examples=150, deadline=None)
@given(
    dtype=st.sampled_from(sorted(PLAIN)),
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 400),
    cut=st.integers(0, 400),
    moved=st.floats(0, 1),
    odd=st.sampled_from([0.0, 0.05, 1.0]),
)
def test_figures_are_those_of_the_whole_whatever_the_parts(
    dtype: str, seed: int, count: int, cut: int, moved: float, odd: float
) -> None:
    rng = np.random.default_rng(seed)
    kind = np.dtype(PLAIN[dtype])
    if kind.kind in "iu":
        old = np.frombuffer(rng.bytes(count * kind.itemsize), kind).copy()
        new = np.where(rng.random(count) < moved, rng.permutation(old), old)
    else:
        values = rng.normal(size=(2, count)) + (1j * rng.normal(size=(2, count)))
        if kind.kind != "c":
            values = values.real
        old = values[0].astype(kind)
        new = np.where(rng.random(count) < moved, values[1], values[0]).astype(kind)
        for side in (old, new):
            strange = rng.choice([math.nan, math.inf, -math.inf, 0.0, -0.0], count)
            side[:] = np.where(rng.random(count) < odd, strange, side)
    new = new.astype(kind)
    cuts = (min(cut, count),)
    assert_close(measured(dtype, old.tobytes(), new.tobytes(), cuts), expected(old, new))


@settings(max_examples=50, deadline=None)
@given(raw=st.binary(min_size=4, max_size=800), other=st.binary(min_size=4, max_size=800))
def test_bfloat16_of_any_bits_is_the_upper_half_of_a_float32(raw: bytes, other: bytes) -> None:
    size = min(len(raw), len(other)) // 2 * 2
    old, new = np.frombuffer(raw[:size], "<u2"), np.frombuffer(other[:size], "<u2")

    def wide(halves: NDArray[np.uint16]) -> NDArray[np.float32]:
        return np.stack([np.zeros_like(halves), halves], axis=1).reshape(-1).view("<f4")

    assert_close(measured("bf16", raw[:size], other[:size]), expected(wide(old), wide(new)))
    swapped = old.byteswap().tobytes(), new.byteswap().tobytes()
    assert measured("bf16_be", *swapped) == measured("bf16", old.tobytes(), new.tobytes())


@given(old=st.binary(max_size=300), seed=st.integers(0, 99))
def test_bytes_of_unknown_meaning_are_counted(old: bytes, seed: int) -> None:
    new = np.random.default_rng(seed).bytes(len(old))
    sums = Sums()
    add_bytes(sums, old, new)
    figures = sums.figures(diff_numbers.BYTES)
    assert figures.changed == sum(a != b for a, b in zip(old, new, strict=True))
    assert (figures.largest, figures.mean, figures.cosine) == (None, None, None)
