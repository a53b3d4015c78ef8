"""Sizes, times and names as a person reads them, and tables that fit the terminal.

Pure functions from values to text. Units are decimal (1 GB is 10**9 bytes), as disks, stores
and model hubs count; times are local, in the order of ISO 8601.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from backupd.config.wording import ago, size, span, until

__all__ = [
    "Column",
    "ago",
    "count",
    "cut",
    "listing",
    "local_time",
    "pairs",
    "percent",
    "printable",
    "size",
    "span",
    "table",
    "text_width",
    "until",
    "utc_time",
]

GAP = 2
NARROWEST = 12


def percent(part: float, whole: float) -> str:
    """`part` of `whole` in percent; `0 %` of nothing."""
    return f"{100 * part / whole:.0f} %" if whole else "0 %"


def local_time(seconds: float, *, precise: bool = False) -> str:
    """`2026-11-23 20:15` in the local time zone; `precise` adds seconds and the zone."""
    moment = datetime.fromtimestamp(seconds, tz=UTC).astimezone()
    return moment.isoformat(sep=" ", timespec="seconds" if precise else "minutes")[
        : None if precise else 16
    ]


def utc_time(seconds: float) -> str:
    """`2026-11-23T20:15:00.250Z`, for machines."""
    moment = datetime.fromtimestamp(seconds, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 file`, `12,345 files`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listing(names: Sequence[str], limit: int = 3) -> str:
    """The first `limit` names and how many more there are."""
    shown = ", ".join(printable(name) for name in names[:limit])
    return f"{shown} and {len(names) - limit:,} more" if len(names) > limit else shown


def printable(text: str | bytes) -> str:
    """A name that cannot harm the terminal: control characters and broken bytes as `\\xNN`."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, kept by surrogateescape
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def pairs(mapping: object) -> str:
    """Labels or metrics on one line: `release=yes, best`."""
    if not isinstance(mapping, dict) and not hasattr(mapping, "items"):
        return ""
    shown = []
    for key, value in sorted(mapping.items()):
        text = f"{value:.6g}" if isinstance(value, float) else str(value)
        shown.append(f"{key}={text}" if text else str(key))
    return printable(", ".join(shown))


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `shrink` is the narrowest it may be cut to (0: never cut); `drop` the order
    in which it is left out when the terminal is too narrow even so (0: never). With `wrap` what
    does not fit goes on in the next line instead of being cut."""

    title: str
    right: bool = False
    shrink: int = 0
    drop: int = 0
    wrap: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """The lines of a table, title first; columns without any content are left out.

    With `width` 0 nothing is cut, for output that another program reads.
    """
    kept = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    widths = {
        i: max([text_width(columns[i].title)] + [text_width(row[i]) for row in rows]) for i in kept
    }
    natural = dict(widths)
    while width and _total(widths) > width:
        _shrink(widths, width, {i: columns[i].shrink for i in widths})
        droppable = [i for i in widths if columns[i].drop]
        if _total(widths) <= width:
            break
        if not droppable:
            # What wraps loses nothing in a narrow column.
            floors = {i: NARROWEST if columns[i].wrap else 0 for i in widths}
            _shrink(widths, width, floors)
            break
        gone = min(droppable, key=lambda i: columns[i].drop)
        widths = {i: natural[i] for i in widths if i != gone}
    titles = {i: cut(columns[i].title, width) for i, width in widths.items()}
    lines = [_line(columns, titles, widths)]
    for row in rows:
        lines += _lines(columns, row, widths)
    return lines


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)


def _shrink(widths: dict[int, int], width: int, floors: Mapping[int, int]) -> None:
    """Takes what is too much from the widest of the columns that have a floor, down to it."""
    while (excess := _total(widths) - width) > 0:
        able = [i for i in widths if floors[i] and widths[i] > floors[i]]
        if not able:
            return
        widest = max(able, key=lambda i: widths[i])
        lower = max([floors[widest], *(widths[i] for i in able if widths[i] < widths[widest])])
        widths[widest] -= min(excess, widths[widest] - lower)


def _lines(columns: Sequence[Column], row: Sequence[str], widths: dict[int, int]) -> list[str]:
    """One row, in as many lines as its wrapped cells need."""
    cells = {
        i: _wrapped(row[i], width) if columns[i].wrap else [cut(row[i], width)]
        for i, width in widths.items()
    }
    depth = max(len(parts) for parts in cells.values())
    return [
        _line(
            columns, {i: parts[n] if n < len(parts) else "" for i, parts in cells.items()}, widths
        )
        for n in range(depth)
    ]


def _line(columns: Sequence[Column], cells: Mapping[int, str], widths: dict[int, int]) -> str:
    parts = []
    for i, width in widths.items():
        pad = " " * (width - text_width(cells[i]))
        parts.append(pad + cells[i] if columns[i].right else cells[i] + pad)
    return (" " * GAP).join(parts).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    if text_width(text) <= width:
        return [text]
    import textwrap  # only a narrow terminal needs it

    return [cut(line, width) for line in textwrap.wrap(text, width)]


def text_width(text: str) -> int:
    """Columns that a terminal takes for `text`."""
    if text.isascii():
        return len(text)
    import unicodedata  # only names outside ASCII need it

    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def cut(text: str, width: int) -> str:
    """`text` in at most `width` columns, ending in `…` where something was cut."""
    if text_width(text) <= width:
        return text
    while text and text_width(text) > width - 1:
        text = text[:-1]
    return text + "…"
