"""Tombstones: packs that are due for deletion, and since when.

One is named by the BLAKE3 of its stored bytes, and says who is due in a sealed JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from blake3 import blake3

from backupd.codec.blob import ID_SIZE
from backupd.codec.sealing import Sealer, seal, unseal
from backupd.errors import DamagedError, ObjectMissingError, TargetError
from backupd.repository.layout import MAX_TOMBSTONE, TOMBSTONES
from backupd.repository.small_objects import RELISTINGS, SmallObjects, present
from backupd.targets.base import Target

_ASSOCIATED = b"backupd format 1: tombstone"


@dataclass(frozen=True, slots=True)
class Tombstone:
    """Packs marked together. `marked` is in seconds since the epoch, by the marker's clock."""

    name: str
    marked: float
    packs: frozenset[bytes]


def encode_tombstone(marked: float, packs: Iterable[bytes], sealer: Sealer) -> tuple[str, bytes]:
    """The object name and the stored bytes of a tombstone."""
    value = {"marked": marked, "packs": sorted(pack.hex() for pack in packs)}
    stored = bytes(seal(sealer, json.dumps(value).encode(), _ASSOCIATED))
    return TOMBSTONES + blake3(stored).hexdigest(), stored


def decode_tombstone(stored: bytes, name: str, sealer: Sealer) -> Tombstone:
    """The tombstone stored under `name`. Raises `DamagedError`."""
    try:
        value = json.loads(unseal(sealer, stored, _ASSOCIATED))
        packs = frozenset(bytes.fromhex(pack) for pack in value["packs"])
        if any(len(pack) != ID_SIZE for pack in packs):
            raise DamagedError("a pack's id has the wrong length")
        return Tombstone(name, float(value["marked"]), packs)
    except DamagedError as error:
        raise DamagedError(f"{name} is damaged: {error}") from None
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise DamagedError(f"{name} is damaged: it does not list packs") from None


def read_tombstones(
    target: Target,
    small_objects: SmallObjects,
    sealer: Sealer,
    note: Callable[[str], None],
    *,
    afresh: bool = False,
) -> list[Tombstone]:
    """All tombstones of a target; a damaged one marks nothing and is noted.

    With `afresh` each is read from the target itself. Raises `TargetError`.
    """
    for _ in range(RELISTINGS):
        found = []
        damaged = []
        infos = list(target.list(TOMBSTONES))
        got = small_objects.get_all(TOMBSTONES, infos, MAX_TOMBSTONE, afresh=afresh)
        try:
            for info, stored in zip(infos, got, strict=True):
                try:
                    found.append(decode_tombstone(present(stored), info.name, sealer))
                except DamagedError as error:
                    damaged.append(error.message)
        except ObjectMissingError:
            continue  # prune may have written one in its place since it was listed
        for message in damaged:
            note(f"{target.name}: {message}")
        return found
    raise TargetError(
        f"the tombstones of {target.location} changed all the while they were read",
        hint="try again when no prune is running",
    )
