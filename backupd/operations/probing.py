"""Probing a configuration's targets, and what was seen of each kept in the state folder."""

from __future__ import annotations

import os
from pathlib import Path

from backupd.config.settings import S3Target, Settings
from backupd.errors import TargetError, TargetReadOnlyError
from backupd.operations.installation import Installation
from backupd.targets.capabilities import Capabilities, decode_capabilities, encode_capabilities
from backupd.targets.probe import place_of, probe_target

_FOLDER = "probes"
_MAX_BYTES = 64 << 10


def probe(installation: Installation, name: str) -> Capabilities:
    """See what the target does; kept where there is a state folder.

    One that is append-only here is probed once: what a probe puts there stays. Raises the
    `TargetError` that says why nothing could be seen, also for one that is looked at as it was
    and so is only read. See `refuse` for what to do with the answer.
    """
    settings = installation.settings.targets[name]
    if isinstance(settings, S3Target):
        if settings.as_of:
            raise TargetReadOnlyError(
                f"target {name!r} is looked at as it was, and so cannot be probed",
                hint="take `as_of` out of its settings to probe it",
            )
        kept = kept_capabilities(installation.settings, name) if settings.append_only else None
        if kept is not None and not installation.standalone:
            return kept
    found = probe_target(
        settings, clock=installation.clock, on_request=installation.traffic_of(name).add
    )
    if not installation.standalone:
        path = _path(installation.settings.state_dir, name)
        _keep(path, encode_capabilities(found, place_of(settings)))
    return found


def refuse(found: Capabilities, name: str, location: str) -> None:
    """Raise `TargetError` where nothing may be trusted to a target that does what was `found`."""
    objection = found.objection()
    if objection:
        raise TargetError(
            f"target {name!r}: {location} is not used: it {objection}",
            hint="take another store, or another server before it",
        )


def kept_capabilities(settings: Settings, name: str) -> Capabilities | None:
    """What the last probe of the target saw; None where there was none, or of another place."""
    try:
        with _path(settings.state_dir, name).open("rb") as file:
            stored = file.read(_MAX_BYTES)
    except OSError:
        return None
    return decode_capabilities(stored, place_of(settings.targets[name]))


def _path(state_dir: Path, name: str) -> Path:
    return state_dir / _FOLDER / f"{name}.json"


def _keep(path: Path, stored: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.new")
        temporary.write_bytes(stored)
        os.replace(temporary, path)
    except OSError:
        return  # seen is seen; the next probe may keep it
