"""The versions of one model as a history: what stands on what, and what is known of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backupd.errors import NotFoundError, UsageError
from backupd.operations.catalog import read_catalog
from backupd.operations.heads import read_head
from backupd.operations.installation import Installation
from backupd.operations.past import LABEL
from backupd.operations.reports import SnapshotInfo
from backupd.policy.history import GraphLine, Node, draw, stands_on
from backupd.policy.nearest import nearest_names


@dataclass(frozen=True, slots=True)
class Version:
    """A listed version. `stands_on` is the nearest listed version behind it, 0 for none: its
    parent, or where that was forgotten one before. `here` says that the folder was last known to
    be this version. `commit` is that of the code, empty where none is known."""

    info: SnapshotInfo
    stands_on: int
    here: bool
    commit: str


@dataclass(frozen=True, slots=True)
class History:
    """The versions by number, and the picture of them, the newest first."""

    versions: Mapping[int, Version]
    lines: tuple[GraphLine, ...]
    unreachable: tuple[str, ...]
    damaged: Mapping[str, str]


def read_history(
    installation: Installation, model: str, *, host: str = "", target: str = ""
) -> History:
    """The history of a model of this host, else of the only one that has it, or of `host`.

    Raises `NotFoundError` where there is no snapshot of it, `UsageError` where several hosts have
    one.
    """
    catalog = read_catalog(installation, model=model, targets=[target] if target else None)
    hosts = {snapshot.info.host for snapshot in catalog.snapshots}
    if not host:
        own = installation.settings.host
        if len(hosts) > 1 and own not in hosts:
            raise UsageError(
                f"several hosts have a model {model!r}: {', '.join(sorted(hosts))}",
                hint="say which with --host",
            )
        host = own if own in hosts else next(iter(hosts), "")
    mine = [s for s in catalog.snapshots if s.info.host == host]
    if not mine:
        known = {s.info.model for s in read_catalog(installation).snapshots}
        known |= set(installation.settings.models)
        near = nearest_names(model, sorted(known))
        raise NotFoundError(
            f"there is no snapshot of {model!r}",
            hint=f"did you mean {near[0]}?" if near and near[0] != model else "take the first one",
        )
    by_version = {snapshot.info.version: snapshot for snapshot in mine}
    head = read_head(installation, model) if host == installation.settings.host else None
    # What was imported never was in the model's own folder.
    here = max((n for n, s in by_version.items() if LABEL not in s.info.labels), default=0)
    if head is not None and here <= head.above:
        here = head.version
    nodes = [
        Node(number, snapshot.info.parent, snapshot.stored.record.ancestry)
        for number, snapshot in by_version.items()
    ]
    versions = {
        node.version: Version(
            info=by_version[node.version].info,
            stands_on=stands_on(node, by_version),
            here=node.version == here,
            commit=str(by_version[node.version].stored.record.code.get("commit") or ""),
        )
        for node in nodes
    }
    return History(versions, draw(nodes), tuple(catalog.unreachable), catalog.damaged)
