"""What a switch would do with each path, told from the folder's state alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from backupd.capture.folders import shown
from backupd.capture.scan import Scan, ScanOptions, Skipped
from backupd.config.settings import ModelSettings
from backupd.operations.catalog import ResolvedSnapshot, iterate_files
from backupd.operations.installation import Installation
from backupd.operations.placement import Placement, plan_placement
from backupd.operations.reports import SnapshotInfo
from backupd.repository.tree import FileType


@dataclass(frozen=True, slots=True)
class SwitchPlan:
    """Paths by what becomes of them: `new`, `changed`, `same` and `gone`, folders left out.

    Of a file of equal size and time it is believed that it is the same; `fetched_bytes` counts
    the new and changed ones, though a file that only moved is not fetched.
    """

    version: SnapshotInfo
    paths: Mapping[str, tuple[str, ...]]
    fetched_bytes: int


def plan_switch(
    installation: Installation, model: ModelSettings, version: ResolvedSnapshot
) -> SwitchPlan:
    """The plan of a switch of a model that was not changed since; changes nothing.

    Raises `DamagedError` where the version's list of files cannot be read.
    """
    root = os.fsencode(os.path.realpath(model.path))
    found: dict[str, list[str]] = {"new": [], "changed": [], "same": [], "gone": []}
    fetched_bytes = 0
    entries = list(iterate_files(version))
    for entry, placement in zip(entries, plan_placement(root, iter(entries)), strict=True):
        if entry.type is FileType.FOLDER:
            continue
        action = {Placement.CREATE: "new", Placement.SAME: "same"}.get(placement, "changed")
        found[action].append(shown(entry.path))
        if action != "same" and entry.type is FileType.FILE:
            fetched_bytes += entry.metadata.size_bytes
    wanted = {entry.path for entry in entries}
    if os.path.isdir(root):
        with Scan(root, ScanOptions(model.exclude, model.one_filesystem)) as scan:
            for item in scan:
                if isinstance(item, Skipped) or item.type is FileType.FOLDER:
                    continue
                if item.path not in wanted:
                    found["gone"].append(shown(item.path))
    paths = {action: tuple(names) for action, names in found.items()}
    return SwitchPlan(version.info, paths, fetched_bytes)
