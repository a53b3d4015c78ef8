"""What every command shares: the common options, and the words a command leaves behind.

Nothing here opens a repository or imports anything heavy; `backupd --version` pays for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class App:
    """The common options of one invocation, with the world it runs in.

    `state_dir` is set once a configuration is known, for the report of a bug.
    `environment` and `clock` are replaced by tests.
    """

    config: str = ""
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    progress: bool = True
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    clock: Callable[[], float] = time.time
    state_dir: Path | None = None

    @property
    def chatty(self) -> bool:
        """Whether words for people belong on standard output."""
        return not self.json and not self.quiet

    def home(self, variable: str, fallback: str) -> Path:
        """The XDG base folder that `variable` names, else `fallback` below the home folder.

        The XDG specification has relative values ignored.
        """
        value = self.environment.get(variable, "")
        if value.startswith("/"):
            return Path(value)
        home = self.environment.get("HOME", "")
        return (Path(home) if home.startswith("/") else Path.home()) / fallback
