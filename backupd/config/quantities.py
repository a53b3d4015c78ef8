"""Durations, sizes, rates and percentages as people write them, and back.

Pure functions from text to numbers; each raises `ValueError` with a sentence that says what
would be right.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

_DURATION = re.compile(r"(?:\d{1,10}(?:\.\d{1,9})?[smhdwy])+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdwy])")
# A year is 365 days: retention is coarse, and a duration that depends on the date is not one.
_DURATION_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_MAX_DURATION_SECONDS = 200 * 31536000
_SIZE = re.compile(r"(\d{1,30})(?:\.(\d{1,9}))?\s*([A-Za-z]*)")
_SIZE_BYTES = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip


def parse_duration(text: str) -> timedelta:
    """`90s`, `15m`, `36h`, `2d`, `1w`, `1y` or a run of them such as `1d12h`."""
    compact = text.replace(" ", "")
    if not _DURATION.fullmatch(compact):
        raise ValueError("is no duration; write a number with s, m, h, d, w or y, such as 2d")
    seconds = sum(
        float(number) * _DURATION_SECONDS[unit] for number, unit in _DURATION_PART.findall(compact)
    )
    if seconds > _MAX_DURATION_SECONDS:
        raise ValueError("is longer than 200 years; write a shorter one, such as 10y")
    return timedelta(seconds=seconds)


def format_duration(duration: timedelta) -> str:
    """The shortest form that `parse_duration` reads back, to the second: `1d12h`, `2w`."""
    left = round(duration.total_seconds())
    if left <= 0:
        return "0s"
    for unit in ("y", "w"):
        if left % _DURATION_SECONDS[unit] == 0:
            return f"{left // _DURATION_SECONDS[unit]}{unit}"
    parts = []
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, _DURATION_SECONDS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def parse_time(text: str) -> float:
    """`2026-11-20T14:30`, with a zone or in the box's own, as seconds since the epoch."""
    try:
        return datetime.fromisoformat(text.strip()).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError("is no time; write one such as 2026-11-20T14:30 or add +00:00") from None


def parse_rate(text: str) -> int:
    """Bytes per second: `200MB/s` (10**6), `50MiB/s` (2**20); the `/s` may be left out."""
    rate = _bytes(text.strip().removesuffix("/s").strip())
    if rate is None:
        raise ValueError("is no rate; write bytes per second, such as 200MB/s or 50MiB/s")
    if rate < 1:
        raise ValueError("would send nothing; leave the key out for no limit")
    return rate


def parse_size(text: str) -> int:
    """Bytes: `2GB` (10**9), `500MiB` (2**20)."""
    size = _bytes(text.strip())
    if size is None:
        raise ValueError("is no size; write bytes, such as 2GB or 500MiB")
    return size


def _bytes(text: str) -> int | None:
    """The whole bytes of a number with its unit, which a float would not hold of petabytes."""
    match = _SIZE.fullmatch(text)
    unit = _SIZE_BYTES.get(match[3].lower()) if match else None
    if match is None or unit is None:
        return None
    billionths = int((match[2] or "").ljust(9, "0"))
    return int(match[1]) * unit + billionths * unit // 1_000_000_000


def format_size(size_bytes: int) -> str:
    """The shortest form that `parse_size` reads back: `2GB`, `512MiB`, `1000B`."""
    for unit in ("tib", "tb", "gib", "gb", "mib", "mb"):
        if size_bytes and size_bytes % _SIZE_BYTES[unit] == 0:
            return f"{size_bytes // _SIZE_BYTES[unit]}{unit[:-1].upper().replace('I', 'i')}B"
    return f"{size_bytes}B"


def parse_percent(text: str) -> float:
    """`5%`, `5` or `0.5%`: a number from 0 to 100."""
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise ValueError("is no percentage; write one from 0% to 100%, such as 5%")
    return percent
