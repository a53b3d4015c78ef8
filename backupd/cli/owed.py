"""Which targets lack the newest snapshot of a model, and since when they fail, for `list`.

What is missing is told by the listings; why and since when by what the daemon remembers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backupd.cli.formatting import utc_time

if TYPE_CHECKING:
    from backupd.config.settings import Settings
    from backupd.operations.catalog import Catalog
    from backupd.operations.reports import SnapshotInfo


def owed_targets(settings: Settings, catalog: Catalog) -> list[dict[str, Any]]:
    """This host's models and the targets that lack the newest snapshot of each."""
    newest: dict[str, SnapshotInfo] = {}
    for item in catalog.snapshots:
        info = item.info
        if info.host == settings.host and info.model in settings.models:
            newest[info.model] = max(
                info, newest.get(info.model, info), key=lambda one: one.version
            )
    lacking = [
        (info, target)
        for name, info in newest.items()
        for target in settings.models[name].targets
        if target not in info.targets
    ]
    if not lacking:
        return []
    from backupd.daemon.state import STATE_NAME, StateStore, TargetRecord

    store = StateStore(settings.state_dir / STATE_NAME)
    found = []
    for info, target in lacking:
        # The name of the record of a model's snapshots.
        record = store.get(f"snapshot:{info.model}").targets.get(target, TargetRecord())
        away = catalog.unreachable.get(target)
        reason = record.error or (away.message if away is not None else "")
        found.append(
            {
                "model": info.model,
                "target": target,
                "version": info.version,
                "state": "failed" if reason else "pending",
                "owed": max(record.owed, 1),
                "failed_since": utc_time(record.failed_since) if record.failed_since else None,
                "reason": reason or None,
            }
        )
    return found


def sentence(entry: Mapping[str, Any]) -> str:
    """One of them in words."""
    since = f" since {entry['failed_since']}" if entry["failed_since"] else ""
    why = f"failed{since}: {entry['reason']}" if entry["reason"] else "the copy is pending"
    return f"{entry['model']}@v{entry['version']} is not on {entry['target']} yet; {why}"
