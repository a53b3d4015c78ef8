"""Whether JSON of unknown honesty is parsed at all, as its values take far more than its text."""

from __future__ import annotations

MAX_VALUES = 2_000_000
"""So many take some hundreds of megabytes: `{"":{` of six bytes becomes 240. A trainer's state
has as many after 300,000 steps logged, an index of shards a tenth at most."""


def has_too_many_values(text: bytes) -> bool:
    """Whether `text` could hold more than `MAX_VALUES`; marks within strings count as well."""
    return sum(text.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES
