"""How a snapshot waits for a model to settle, and the plan that comes of it: values alone.

The looking and waiting is `settling`'s, which an unchanged model never imports.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from backupd.capture.folders import name_of, parent_of
from backupd.capture.settle import SettleRules
from backupd.capture.wholeness.names import is_checkpoint_name
from backupd.errors import BackupdError


class NotSettledError(BackupdError):
    """The model has to be looked at again in `seconds`; for one who does not want to wait here."""

    def __init__(self, seconds: float, reason: str) -> None:
        super().__init__(reason)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Settling:
    """How a snapshot waits: by `rules`, counted from `since` (epoch; None for now).

    Without `wait_here` a model that has not settled raises `NotSettledError`.
    """

    rules: SettleRules
    since: float | None = None
    wait_here: bool = True


class SeenFile(NamedTuple):
    """What a checkpoint file was when it was found settled."""

    stat: os.stat_result
    in_set: bool

    def is_still(self, now: os.stat_result) -> bool:
        """Whether `now` is of the same state of the same file."""
        then = self.stat
        return (now.st_dev, now.st_ino, now.st_ctime_ns, now.st_size) == (
            then.st_dev,
            then.st_ino,
            then.st_ctime_ns,
            then.st_size,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be believed: of the files in `seen` those that `torn` and `torn_folders` do not
    say a reason against. `sets` are the paths that are whole only together. `emptied` names a
    file of each set of which nothing is new and something is gone, with what that is.
    `torn_beside` are folders in which files of a torn set lie among others. `lost` are the names,
    by folder, of checkpoint files that were gone already.
    """

    torn: Mapping[bytes, str] = field(default_factory=dict)
    torn_folders: Mapping[bytes, str] = field(default_factory=dict)
    seen: Mapping[bytes, SeenFile] = field(default_factory=dict)
    sets: tuple[frozenset[bytes], ...] = ()
    emptied: Mapping[bytes, str] = field(default_factory=dict)
    torn_beside: frozenset[bytes] = frozenset()
    lost: Mapping[bytes, Set[bytes]] = field(default_factory=dict)

    def misses(self, path: bytes) -> bool:
        """Whether a path that is gone belongs to a checkpoint that is kept as it was."""
        above = parent_of(path)
        if above in self.torn_beside and is_checkpoint_name(name_of(path)):
            return True
        while above:
            if above in self.torn_folders:
                return True
            above = parent_of(above)
        return False

    def doubt(self, path: bytes) -> str:
        """Why the file at `path` is not to be taken as it is; empty where it is."""
        found = self.torn.get(path, "")
        if not found and self.torn_folders:
            above = parent_of(path)
            while above and not found:
                found = self.torn_folders.get(above, "")
                above = parent_of(above)
        return found
