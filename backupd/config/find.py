"""Which configuration file a command means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backupd.errors import ConfigError

VARIABLE = "BACKUPD_CONFIG"
SYSTEM_FILE = Path("/etc/backupd/backupd.yaml")


def user_file(environment: Mapping[str, str]) -> Path | None:
    """`~/.config/backupd/backupd.yaml`; None where there is no home."""
    home = environment.get("HOME", "")
    return Path(home, ".config/backupd/backupd.yaml") if home.startswith("/") else None


def find_config(environment: Mapping[str, str], *, system_file: Path = SYSTEM_FILE) -> Path:
    """`$BACKUPD_CONFIG`, else the first that exists of the user's file and the system's.

    Raises `ConfigError`, naming the places, where there is none.
    """
    named = environment.get(VARIABLE, "")
    if named:
        return Path(named)
    user = user_file(environment)
    places = [place for place in (user, system_file) if place is not None]
    for place in places:
        try:
            place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return place  # It is there and cannot be reached: loading it says why.
        return place
    raise ConfigError(
        f"there is no configuration at {' or '.join(str(place) for place in places)}",
        hint=f"write one with 'backupd quickstart DIR', or name it with --config or ${VARIABLE}",
    )
