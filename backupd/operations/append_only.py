"""Targets from which nothing may be deleted: by this box never, or by nobody for a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from backupd.config.settings import S3Target, Settings
from backupd.errors import UsageError

if TYPE_CHECKING:
    from backupd.operations.installation import Installation


def append_only(settings: Settings, names: Iterable[str]) -> tuple[str, ...]:
    """Those of the targets that are append-only here."""
    return tuple(name for name in names if _is_append_only(settings, name))


def refuse_append_only(installation: Installation, target: str) -> None:
    """Raise `UsageError` where the target is append-only here."""
    if _is_append_only(installation.settings, target):
        raise UsageError(
            f"target {target!r} is append-only here, so nothing on it can be forgotten or pruned",
            hint="do it where the other credentials are (docs/operating.md, Append-only)",
        )


def has_lock(settings: Settings, name: str) -> bool:
    """Whether an Object Lock is asked for on the target."""
    target = settings.targets.get(name)
    return isinstance(target, S3Target) and bool(target.object_lock_mode)


def _is_append_only(settings: Settings, name: str) -> bool:
    target = settings.targets.get(name)
    return isinstance(target, S3Target) and target.append_only
