"""Numbers at the edges: the ends of float64's range, 8-bit floats, NaN, and what is nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backupd.operations.diff_numbers import BYTES, ELEMENTS, Figures, Sums, add_numbers, number_kind


def measured(dtype: str, old: bytes, new: bytes, new_dtype: str = "") -> Figures:
    kinds = number_kind(dtype), number_kind(new_dtype or dtype)
    assert kinds[0] is not None
    assert kinds[1] is not None
    sums = Sums()
    add_numbers(sums, old, kinds[0], new, kinds[1])
    return sums.figures(ELEMENTS)


def floats(*values: float) -> bytes:
    return np.array(values, "<f8").tobytes()


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1.0, 1e170, 1e300])
def test_the_cosine_does_not_depend_on_how_large_the_numbers_are(size: float) -> None:
    found = measured("f64", floats(size, 0), floats(size, size))
    assert found.cosine == pytest.approx(math.sqrt(0.5), rel=1e-12)
    assert (found.changed, found.largest) == (1, size)


def test_the_cosine_of_nothing_is_1_and_with_nothing_0() -> None:
    assert measured("f64", floats(0, 0), floats(0, -0.0)).cosine == 1
    assert measured("f64", floats(0, 0), floats(0, 1)).cosine == 0
    assert measured("f64", floats(1, 0), floats(-2, 0)).cosine == -1


def test_nan_that_stays_is_no_change_and_nan_that_comes_is_one() -> None:
    old = floats(math.nan, 1, math.inf, math.inf, 2)
    new = floats(math.nan, math.nan, math.inf, -math.inf, 3)
    found = measured("f64", old, new)
    assert (found.count, found.changed, found.non_finite) == (5, 3, 2)
    assert (found.largest, found.mean) == (1, 1)
    assert found.cosine == 1


def test_where_nothing_is_finite_only_changes_are_counted() -> None:
    found = measured("f64", floats(math.nan, math.inf), floats(math.inf, math.inf))
    assert found == Figures(ELEMENTS, 2, 1, 1)


def test_a_minus_before_zero_is_no_change() -> None:
    assert measured("f64", floats(0.0, 1), floats(-0.0, 1)).changed == 0


def test_integers_beyond_float64_differ_by_what_they_differ() -> None:
    old = np.array([2**62, -(2**63), 5], "<i8")
    new = np.array([2**62 + 1, 2**63 - 1, 5], "<i8")
    found = measured("i64", old.tobytes(), new.tobytes())
    assert (found.changed, found.largest) == (2, 2.0**64)
    near = measured("i64", old[:1].tobytes(), new[:1].tobytes())
    assert (near.changed, near.largest) == (1, 1)


def test_types_are_compared_by_value() -> None:
    values = np.array([1.0, 2.5, -3.0])
    found = measured("f32", values.astype("<f4").tobytes(), values.astype("<f2").tobytes(), "f16")
    assert (found.changed, found.cosine) == (0, 1)


@pytest.mark.parametrize(
    ("dtype", "code", "value"),
    [
        # The tables of arXiv:2209.05433 and 2206.02915: largest, smallest, one, and what is none.
        ("f8_e4m3", 0x7E, 448.0),
        ("f8_e4m3", 0x01, 2.0**-9),
        ("f8_e4m3", 0x38, 1.0),
        ("f8_e4m3", 0xFF, math.nan),
        ("f8_e5m2", 0x7B, 57344.0),
        ("f8_e5m2", 0x01, 2.0**-16),
        ("f8_e5m2", 0xFC, -math.inf),
        ("f8_e5m2", 0x7D, math.nan),
        ("f8_e4m3fnuz", 0x7F, 240.0),
        ("f8_e4m3fnuz", 0x80, math.nan),
        ("f8_e5m2fnuz", 0x7F, 57344.0),
        ("f8_e5m2fnuz", 0x01, 2.0**-17),
        ("f8_e8m0", 127, 1.0),
        ("f8_e8m0", 255, math.nan),
    ],
)
def test_8_bit_floats_are_read_as_specified(dtype: str, code: int, value: float) -> None:
    kind = number_kind(dtype)
    assert kind is not None
    [read] = kind.widen(np.array([code], np.uint8))
    assert read == value or (math.isnan(read) and math.isnan(value))


@pytest.mark.parametrize("dtype", ["q4_0", "opaque", "f4", "f6_e2m3", "nf4"])
def test_packed_and_unknown_types_are_bytes(dtype: str) -> None:
    assert number_kind(dtype) is None
    assert Sums(count=4, changed=1).figures(BYTES).share == 0.25
