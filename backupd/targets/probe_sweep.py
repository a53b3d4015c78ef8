"""Where probes put their objects, and the removal of what they left."""

from __future__ import annotations

from backupd.errors import TargetError
from backupd.targets.base import Target

FOLDER = "probe/"
_STALE_SECONDS = 3600.0


def sweep(target: Target, folder: str) -> None:
    """Remove what this probe left, and what one that was killed left an hour ago and more."""
    try:
        there = list(target.list(FOLDER))
        newest = max((info.modified for info in there), default=0.0)
        for info in there:
            if info.name.startswith(folder) or newest - info.modified > _STALE_SECONDS:
                target.delete(info.name)
    except TargetError:
        return  # the probe's own answer is told, or its own failure
