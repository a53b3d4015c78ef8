"""By how much numbers moved: sums over blocks of two tensors' bytes, added up to figures.

Everything is computed in float64, a block that fits the processor's cache at a time. Nothing is
read here: bytes in, sums out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from backupd.capture.containers.regions import DATA_TYPES
from backupd.codec.blob import Buffer

_Bytes: TypeAlias = NDArray[np.uint8]
_Values: TypeAlias = NDArray[np.float64]

_BLOCK_ELEMENTS = 1 << 16  # as float64 half a mebibyte an array, which a second-level cache holds
# Sums of squares beyond these may have left float64's range; they are taken of scaled values.
_LARGE, _SMALL = 2.0**480, 2.0**-480


class NumberKind(NamedTuple):
    """How bytes are read as numbers: bytes of an element, its components (2 where complex), the
    way to float64, and the integer type where float64 cannot hold every value (else empty)."""

    width: int
    components: int
    widen: Callable[[_Bytes], _Values]
    exact: str = ""


BYTES = "bytes"
"""The unit of figures of what is no table of numbers: packed, quantised or of unknown type."""

ELEMENTS = "elements"


@dataclass(frozen=True, slots=True)
class Figures:
    """How a tensor differs from what it was.

    `changed` of `count` units differ in value (0.0 equals -0.0, NaN equals NaN); of these
    `non_finite` are NaN or infinite on either side, and are left out of what follows. `largest`
    and `mean` are absolute changes over all elements, `cosine` that of old and new as vectors:
    1 where both are zero, 0 where one is. These three are None where `unit` is bytes, or where
    no element is finite on both sides.
    """

    unit: str
    count: int
    changed: int
    non_finite: int = 0
    largest: float | None = None
    mean: float | None = None
    cosine: float | None = None

    @property
    def share(self) -> float:
        """The changed part, from 0 to 1."""
        return self.changed / self.count if self.count else 0.0


@dataclass(slots=True)
class Sums:
    """What figures are made of; sums of several parts add up to those of the whole."""

    count: int = 0
    changed: int = 0
    non_finite: int = 0
    compared: int = 0
    largest: float = 0.0
    total: float = 0.0
    # numpy's longdouble, wider than the float64 whose squares they hold.
    dot: Any = 0
    old_square: Any = 0
    new_square: Any = 0

    def add(self, other: Sums) -> None:
        """Take another part's sums in."""
        self.count += other.count
        self.changed += other.changed
        self.non_finite += other.non_finite
        self.compared += other.compared
        self.largest = max(self.largest, other.largest)
        self.total += other.total
        self.dot += other.dot
        self.old_square += other.old_square
        self.new_square += other.new_square

    def figures(self, unit: str) -> Figures:
        """The figures of all that was added."""
        if unit == BYTES or not self.compared:
            return Figures(unit, self.count, self.changed, self.non_finite)
        return Figures(
            unit,
            self.count,
            self.changed,
            self.non_finite,
            self.largest,
            self.total / self.compared,
            self._cosine(),
        )

    def _cosine(self) -> float:
        if not self.old_square or not self.new_square:
            return 1.0 if self.old_square == self.new_square else 0.0
        cosine = float(self.dot / (np.sqrt(self.old_square) * np.sqrt(self.new_square)))
        return min(1.0, max(-1.0, cosine))


def number_kind(dtype: str) -> NumberKind | None:
    """How tensors of `dtype` (see `containers.regions`) are read, None where as bytes only."""
    return _KINDS.get(dtype)


def same_bytes(old: Buffer, new: Buffer) -> bool:
    """Whether not a bit differs."""
    return np.array_equal(_raw(old), _raw(new))


def add_bytes(sums: Sums, old: Buffer, new: Buffer) -> None:
    """Add bytes that are no numbers; both sides are of one length."""
    before, after = _raw(old), _raw(new)
    sums.count += len(after)
    sums.changed += int(np.count_nonzero(before != after))


def add_numbers(
    sums: Sums, old: Buffer, old_kind: NumberKind, new: Buffer, new_kind: NumberKind
) -> None:
    """Add as many elements as both sides hold, each in its own type."""
    before, after = _raw(old), _raw(new)
    exact = old_kind.exact if old_kind.exact == new_kind.exact else ""
    count = len(after) // new_kind.width
    for first in range(0, count, _BLOCK_ELEMENTS):
        last = min(first + _BLOCK_ELEMENTS, count)
        was = before[first * old_kind.width : last * old_kind.width]
        now = after[first * new_kind.width : last * new_kind.width]
        with np.errstate(all="ignore"):
            a, b = old_kind.widen(was), new_kind.widen(now)
            if exact:
                _add_exact(sums, was.view(exact), now.view(exact), a, b)
            else:
                _add_block(sums, a, b, new_kind.components)


def add_same(sums: Sums, values: Buffer, kind: NumberKind) -> None:
    """Add elements that did not change."""
    raw = _raw(values)
    for first in range(0, len(raw), _BLOCK_ELEMENTS * kind.width):
        with np.errstate(all="ignore"):
            a = kind.widen(raw[first : first + _BLOCK_ELEMENTS * kind.width])
            sums.count += len(a) // kind.components
            finite = _finite(a, kind.components)
            if not finite.all():
                a = _taken(a, finite, kind.components)
            sums.compared += len(a) // kind.components
            square = _products(a, a)[0]
        sums.dot += square
        sums.old_square += square
        sums.new_square += square


def _raw(data: Buffer) -> _Bytes:
    return np.frombuffer(data, np.uint8)


def _add_block(sums: Sums, a: _Values, b: _Values, components: int) -> None:
    sums.count += len(b) // components
    distance = _distance(a, b, components)
    total = float(distance.sum())
    if not math.isfinite(total):
        finite = _finite(a, components) & _finite(b, components)
        if not finite.all():
            differs = ~finite & _differs(a, b, components)
            count = int(np.count_nonzero(differs))
            sums.non_finite += count
            sums.changed += count
            a, b = _taken(a, finite, components), _taken(b, finite, components)
            distance = distance[finite]
            total = float(distance.sum())
    _add_distances(sums, distance, total, a, b)


def _add_exact(sums: Sums, was: NDArray[Any], now: NDArray[Any], a: _Values, b: _Values) -> None:
    """64-bit integers, whose difference is taken before it is rounded to float64."""
    unsigned = np.dtype("u8").newbyteorder(was.dtype.byteorder)
    apart = np.where(was > now, was - now, now - was).astype(was.dtype).view(unsigned)
    distance = apart.astype(np.float64)
    sums.count += len(now)
    _add_distances(sums, distance, float(distance.sum()), a, b)


def _add_distances(sums: Sums, distance: _Values, total: float, a: _Values, b: _Values) -> None:
    if not len(distance):
        return
    # Two different finite floats never have the difference 0: it would be subnormal.
    sums.changed += int(np.count_nonzero(distance))
    sums.compared += len(distance)
    sums.largest = max(sums.largest, float(distance.max()))
    sums.total += total
    dot, old_square, new_square = _products(a, b)
    sums.dot += dot
    sums.old_square += old_square
    sums.new_square += new_square


def _distance(a: _Values, b: _Values, components: int) -> _Values:
    distance = a - b
    if components == 2:
        return np.hypot(distance[0::2], distance[1::2])
    return np.abs(distance, out=distance)


def _finite(values: _Values, components: int) -> NDArray[np.bool_]:
    finite = np.isfinite(values)
    return np.logical_and(finite[0::2], finite[1::2]) if components == 2 else finite


def _differs(a: _Values, b: _Values, components: int) -> NDArray[np.bool_]:
    differs: NDArray[np.bool_] = (a != b) & ~(np.isnan(a) & np.isnan(b))
    return np.logical_or(differs[0::2], differs[1::2]) if components == 2 else differs


def _taken(values: _Values, which: NDArray[np.bool_], components: int) -> _Values:
    return values.reshape(-1, components)[which].reshape(-1)


def _products(a: _Values, b: _Values) -> tuple[Any, Any, Any]:
    """a·b, a·a and b·b."""
    # Not np.dot: it may set all cores to work, which are the training job's.
    dot, old_square, new_square = (float((x * y).sum()) for x, y in ((a, b), (a, a), (b, b)))
    if not (_SMALL < old_square < _LARGE and _SMALL < new_square < _LARGE):
        return _scaled_products(a, b)
    return np.longdouble(dot), np.longdouble(old_square), np.longdouble(new_square)


def _scaled_products(a: _Values, b: _Values) -> tuple[Any, Any, Any]:
    """The same of values so large or small that their squares leave float64's range."""
    (x, up), (y, wp) = _scaled(a), _scaled(b)
    return (
        np.ldexp(np.longdouble((x * y).sum()), up + wp),
        np.ldexp(np.longdouble((x * x).sum()), 2 * up),
        np.ldexp(np.longdouble((y * y).sum()), 2 * wp),
    )


def _scaled(values: _Values) -> tuple[_Values, int]:
    """The values times a power of two that brings the largest below 1, and its exponent back."""
    largest = float(np.abs(values).max()) if len(values) else 0.0
    exponent = math.frexp(largest)[1]
    return np.ldexp(values, -exponent), exponent


def _through(dtype: str) -> Callable[[_Bytes], _Values]:
    return lambda raw: raw.view(dtype).astype(np.float64)


def _bfloat(order: str) -> Callable[[_Bytes], _Values]:
    """bfloat16 is the upper half of a float32."""

    def widen(raw: _Bytes) -> _Values:
        halves = raw.view(f"{order}u2").astype(np.uint32)
        return np.left_shift(halves, 16, out=halves).view(np.float32).astype(np.float64)

    return widen


def _table(values: _Values) -> Callable[[_Bytes], _Values]:
    return lambda raw: values[raw]


def _float8(exponent_bits: int, bias: int, nan: Callable[[int], bool]) -> _Values:
    """All 256 values of an 8-bit float: sign, exponent, mantissa; subnormals as IEEE 754 has them.

    Formats: Micikevicius et al., "FP8 Formats for Deep Learning", arXiv:2209.05433; those of
    `fnuz`, which have no infinity and no negative zero, arXiv:2206.02915.
    """
    mantissa_bits = 7 - exponent_bits
    values = np.empty(256)
    for code in range(256):
        exponent = code >> mantissa_bits & (1 << exponent_bits) - 1
        mantissa = (code & (1 << mantissa_bits) - 1) / (1 << mantissa_bits)
        lead = 1.0 if exponent else 0.0
        size = math.ldexp(lead + mantissa, max(exponent, 1) - bias)
        values[code] = math.nan if nan(code) else -size if code & 0x80 else size
    return values


def _e5m2() -> _Values:
    values = _float8(5, 15, lambda code: code & 0x7F > 0x7C)
    values[0x7C], values[0xFC] = math.inf, -math.inf
    return values


def _e8m0() -> _Values:
    """Powers of two: the scales of the OCP microscaling formats, version 1.0."""
    values = np.ldexp(1.0, np.arange(256) - 127)
    values[255] = math.nan
    return values


_FLOATS_8 = {
    "f8_e4m3": _table(_float8(4, 7, lambda code: code & 0x7F == 0x7F)),
    "f8_e4m3fnuz": _table(_float8(4, 8, lambda code: code == 0x80)),
    "f8_e5m2": _table(_e5m2()),
    "f8_e5m2fnuz": _table(_float8(5, 16, lambda code: code == 0x80)),
    "f8_e8m0": _table(_e8m0()),
}


def _kinds() -> dict[str, NumberKind]:
    kinds = {name: NumberKind(1, 1, widen) for name, widen in _FLOATS_8.items()}
    kinds |= {"i8": NumberKind(1, 1, _through("i1")), "u8": NumberKind(1, 1, _through("u1"))}
    kinds["bool"] = NumberKind(1, 1, lambda raw: (raw != 0).astype(np.float64))
    for suffix, order in (("", "<"), ("_be", ">")):
        kinds[f"bf16{suffix}"] = NumberKind(2, 1, _bfloat(order))
        for name in ("f16", "f32", "f64", "i16", "i32", "u16", "u32"):
            kinds[name + suffix] = _number(name, order)
        for name in ("i64", "u64"):
            exact = f"{order}{name[0]}8"
            kinds[name + suffix] = _number(name, order)._replace(exact=exact)
        for name, part in (("c32", "f2"), ("c64", "f4"), ("c128", "f8")):
            width = DATA_TYPES[name].bits // 8
            kinds[name + suffix] = NumberKind(width, 2, _through(order + part))
    return kinds


def _number(name: str, order: str) -> NumberKind:
    width = DATA_TYPES[name].bits // 8
    return NumberKind(width, 1, _through(f"{order}{name[0]}{width}"))


_KINDS = _kinds()
