"""Which repository was last seen at each target, so that another one in its place is noticed.

Kept in the state folder, a file for each target. Where there is none (a new box, a bare machine)
what is found is believed; `backupd init` takes what is there as it is.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backupd.errors import TargetError, TargetUnreachableError

_FOLDER = "targets"
_MAX_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Identities:
    """What is remembered of the targets in `state_dir`; with None nothing is."""

    state_dir: Path | None

    def confirm(self, name: str, location: str, repository_id: str) -> None:
        """See that the repository at `location` is the one that was there, or remember it.

        Raises `TargetError` where it is another. A target that has moved is a new one.
        """
        known = self.known(name, location)
        if known is None:
            self.accept(name, location, repository_id)
        elif known != repository_id:
            raise TargetError(
                f"target {name!r}: the repository at {location} is not the one that was there:"
                f" {repository_id} and not {known}",
                hint="see what is mounted or named there; if this one is meant to be used from now"
                " on, run `backupd init`, which takes it as it is",
            )

    def missing(self, name: str, location: str) -> TargetError | None:
        """The error for a place with no repository where there was one; None where none was."""
        known = self.known(name, location)
        if known is None:
            return None
        return TargetUnreachableError(
            f"target {name!r}: the repository {known} that was at {location} is not there",
            hint="mount or plug in the right disk or share; in a bucket that keeps versions see"
            " `backupd undelete --help`; to begin anew there, `backupd init`",
        )

    def accept(self, name: str, location: str, repository_id: str) -> None:
        """Remember the repository, whatever was there before, where the state can be written."""
        path = self._path(name)
        if path is None:
            return
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
            text = json.dumps({"location": location, "repository_id": repository_id})
            temporary.write_text(text + "\n")
            os.replace(temporary, path)
        except OSError:
            return  # whoever may not write the state relies on those who may

    def known(self, name: str, location: str) -> str | None:
        """The id of the repository that was last seen there, or None."""
        path = self._path(name)
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                value: Any = json.loads(file.read(_MAX_BYTES))
            if value["location"] != location:
                return None
            return str(value["repository_id"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def _path(self, name: str) -> Path | None:
        return self.state_dir / _FOLDER / f"{name}.json" if self.state_dir else None
