"""Sizes and times as people read them; also where no terminal is, as on the status page."""

from __future__ import annotations

_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")


def size(count: float) -> str:
    """Bytes with three digits: `0 B`, `999 B`, `1.23 kB`, `45.6 GB`."""
    if abs(count) < 1000:
        return f"{count:.0f} B"
    value = float(count)
    for unit in _UNITS:
        value /= 1000
        # 999.5 and above would round to four digits.
        if abs(value) < 999.5 or unit == _UNITS[-1]:
            break
    if abs(value) < 9.995:
        return f"{value:.2f} {unit}"
    return f"{value:.1f} {unit}" if abs(value) < 99.95 else f"{value:.0f} {unit}"


def span(seconds: float) -> str:
    """How long something takes: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= length:
            rest = whole % length // part
            return (
                f"{whole // length} {unit} {rest} {smaller}"
                if rest
                else f"{whole // length} {unit}"
            )
    if whole >= 60:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole} s"


def ago(seconds: float) -> str:
    """How long ago in one unit: `just now`, `5 min ago`, `3 h ago`, `12 d ago`."""
    if seconds < 60:
        return "just now"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now"


def until(seconds: float) -> str:
    """How far ahead in one unit: `now`, `in 5 min`, `in 3 h`, `in 12 d`."""
    if seconds < 1:
        return "now"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"in {int(seconds // length)} {unit}"
    return f"in {int(seconds)} s"
