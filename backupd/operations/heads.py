"""Which version a model's folder was switched to: what its next snapshot is compared with.

Kept in the state folder. Without it, or once a newer snapshot was taken, the newest counts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backupd.operations.state_file import replace_file

if TYPE_CHECKING:
    from backupd.config.settings import Settings
    from backupd.operations.installation import Installation

_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Head:
    """The folder became `version`; no snapshot above `above` was there. `came_from` is the
    version that it was before, 0 where it was none."""

    version: int
    above: int
    came_from: int


def read_head(installation: Installation, model: str) -> Head | None:
    """The model's head, or None where it was not switched or that cannot be read."""
    if installation.standalone:
        return None
    try:
        with _place(installation, model).open("rb") as file:
            value = json.loads(file.read(_MAX_BYTES))
        return Head(int(value["version"]), int(value["above"]), int(value["came_from"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def write_head(installation: Installation, model: str, head: Head) -> None:
    """Keep a head, durably. Raises OSError."""
    value = {"version": head.version, "above": head.above, "came_from": head.came_from}
    place = _place(installation, model)
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace_file(place, json.dumps(value).encode())


def journal_place(settings: Settings, model: str) -> Path:
    """Where a switch keeps what it is about to do; see `swapping`."""
    return settings.state_dir / "switches" / f"{model}.json"


def was_cut_short(settings: Settings, model: str) -> bool:
    """Whether a switch of a configured model is under way, or ended in the middle."""
    return journal_place(settings, model).exists()


def _place(installation: Installation, model: str) -> Path:
    return installation.settings.state_dir / "heads" / f"{model}.json"
