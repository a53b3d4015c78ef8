"""`repository.json`: the one plain object, which says what the rest is.

Its name is no hash of it, so it has one inside: a flipped digit in a chunk size would be obeyed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from blake3 import blake3

from backupd.codec.chunking_parameters import ChunkingParameters
from backupd.errors import DamagedError
from backupd.repository.layout import DESCRIPTOR, FORMAT_VERSION

ENCRYPTED = "aes-256-gcm"
UNENCRYPTED = "none"
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a repository is: its id (32 hex digits), whether it is encrypted, how it is cut."""

    repository_id: str
    encrypted: bool
    chunking: ChunkingParameters

    def to_json(self) -> bytes:
        """The stored bytes."""
        value: dict[str, Any] = {
            "format": FORMAT_VERSION,
            "id": self.repository_id,
            "encryption": ENCRYPTED if self.encrypted else UNENCRYPTED,
            "chunking": asdict(self.chunking),
        }
        value["digest"] = _digest(value)
        return json.dumps(value, indent=2).encode() + b"\n"


def _digest(value: Mapping[str, Any]) -> str:
    """The BLAKE3 of all but the digest: JSON with sorted keys, no spaces, ASCII only."""
    rest = {key: part for key, part in value.items() if key != "digest"}
    return blake3(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse_descriptor(stored: bytes, location: str) -> Descriptor:
    """Read `repository.json`. Raises `DamagedError`, also for a newer format."""
    try:
        value = json.loads(stored)
        version = value["format"]
        whole = value["digest"] == _digest(value)
        if whole and version != FORMAT_VERSION:
            raise DamagedError(
                f"the repository at {location} has format {version!r}; "
                f"this backupd reads format {FORMAT_VERSION}",
                hint="use the version of backupd that made it, or a newer one",
            )
        chunking = ChunkingParameters(**{key: int(n) for key, n in value["chunking"].items()})
        encryption = value["encryption"]
        sound = (
            whole
            and isinstance(value["id"], str)
            and _ID.fullmatch(value["id"]) is not None
            and encryption in (ENCRYPTED, UNENCRYPTED)
            and chunking.valid()
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        sound = False
    if not sound:
        raise DamagedError(
            f"{DESCRIPTOR} of the repository at {location} is damaged",
            hint="copy it from another target of the same configuration, or from a backup of it",
        )
    return Descriptor(value["id"], encryption == ENCRYPTED, chunking)
