"""The names that someone may have meant."""

from __future__ import annotations

from collections.abc import Iterable


def nearest_names(wanted: str, known: Iterable[str], count: int = 3) -> tuple[str, ...]:
    """Up to `count` of `known` that look like `wanted`, the most alike first."""
    # Imported here: only a mistake needs it, and every command would pay for it.
    import difflib

    lowered: dict[str, str] = {}
    for name in known:
        lowered.setdefault(name.lower(), name)
    found = difflib.get_close_matches(wanted.lower()[:200], lowered, n=count, cutoff=0.6)
    return tuple(lowered[name] for name in found)
