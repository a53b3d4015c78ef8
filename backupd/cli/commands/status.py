"""`status`: the daemon, the models and the targets, as far as each can be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from backupd import errors
from backupd.cli import documents, output
from backupd.cli.app import App
from backupd.cli.command import command
from backupd.cli.errors import error_document, explain
from backupd.cli.formatting import Column, ago, count, size
from backupd.cli.opening import load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backupd.config.settings import Settings
    from backupd.errors import BackupdError
    from backupd.operations.reports import SnapshotInfo

_MODEL_COLUMNS = (
    Column("MODEL"),
    Column("NEWEST"),
    Column("TAKEN"),
    Column("SIZE", right=True, drop=2),
    Column("ON", shrink=8),
    Column("LACKS", shrink=8),
)
_TARGET_COLUMNS = (
    Column("TARGET"),
    Column("SNAPSHOTS", right=True),
    Column("STATE", shrink=20, wrap=True),
)


@command(
    "status",
    exits=(errors.EXIT_FAILED, errors.EXIT_TARGET, errors.EXIT_KEY),
    examples=(
        ("backupd status", "is it running, and how old is the newest snapshot of each model"),
        ("backupd status --json | jq .running", "for a script"),
    ),
)
@click.pass_obj
def status_command(app: App) -> int:
    """Show the daemon, the models and the targets.

    The running daemon is asked. Without one, the targets themselves are: what is stored is
    shown then, and that nothing watches the models.
    """
    from backupd.daemon import client

    settings = load_settings(app)
    try:
        reply = client.status(settings.state_dir)
    except client.DaemonAbsentError:
        return _status_of_targets(app, settings)
    return _status_of_daemon(app, reply)


def _status_of_targets(app: App, settings: Settings) -> int:
    from backupd.operations.catalog import read_catalog
    from backupd.operations.installation import open_installation

    with open_installation(settings, environment=app.environment, clock=app.clock) as installation:
        catalog = read_catalog(installation, host=settings.host)
    newest: dict[str, SnapshotInfo] = {}
    counts = dict.fromkeys(settings.targets, 0)
    for item in catalog.snapshots:
        known = newest.get(item.info.model)
        if known is None or item.info.version > known.version:
            newest[item.info.model] = item.info
        for target in item.info.targets:
            counts[target] += 1
    output.document(
        app,
        {
            "running": False,
            "models": [
                _model_document(app, name, list(model.targets), newest.get(name))
                for name, model in settings.models.items()
            ],
            "targets": [
                {
                    "target": name,
                    "snapshots": None if name in catalog.unreachable else number,
                    **(
                        error_document(explain(catalog.unreachable[name]))
                        if name in catalog.unreachable
                        else {"error": None}
                    ),
                }
                for name, number in counts.items()
            ],
        },
    )
    output.say(app, "The daemon is not running; nothing watches the models.")
    output.say(app, "`systemctl start backupd` or `backupd run` starts it.\n")
    output.table(
        app,
        _MODEL_COLUMNS,
        [
            _model_row(app, name, list(model.targets), newest.get(name))
            for name, model in settings.models.items()
        ],
    )
    output.say(app)
    output.table(app, _TARGET_COLUMNS, _target_rows(counts, catalog.unreachable))
    if catalog.damaged:
        output.warn(
            app, f"{count(len(catalog.damaged), 'object')} cannot be read; see `backupd check`"
        )
    return errors.EXIT_DONE


def _model_document(
    app: App, name: str, targets: list[str], info: SnapshotInfo | None
) -> dict[str, Any]:
    return {
        "model": name,
        "newest": documents.snapshot(info) if info else None,
        "age_seconds": round(app.clock() - info.time, 3) if info else None,
        "lacks": [target for target in targets if info is None or target not in info.targets],
    }


def _model_row(
    app: App, name: str, targets: list[str], info: SnapshotInfo | None
) -> tuple[str, ...]:
    if info is None:
        return (name, "none yet", "", "", "", ",".join(targets))
    return (
        name,
        f"v{info.version}",
        ago(app.clock() - info.time),
        size(info.size_bytes),
        ",".join(info.targets),
        ",".join(target for target in targets if target not in info.targets),
    )


def _target_rows(
    counts: Mapping[str, int], unreachable: Mapping[str, BackupdError]
) -> list[tuple[str, ...]]:
    return [
        (name, "" if name in unreachable else f"{number:,}", str(unreachable.get(name, "reached")))
        for name, number in counts.items()
    ]


def _status_of_daemon(app: App, reply: Mapping[str, Any]) -> int:
    output.document(app, {"running": True, **{k: v for k, v in reply.items() if k != "ok"}})
    return errors.EXIT_DONE
