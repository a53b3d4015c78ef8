"""`status`: the daemon, the models and the targets, as far as each can be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from backupd import errors
from backupd.cli import output
from backupd.cli.app import App
from backupd.cli.command import command
from backupd.cli.errors import error_document, explain
from backupd.cli.formatting import (
    Column,
    ago,
    count,
    local_time,
    percent,
    printable,
    size,
    span,
    until,
    utc_time,
)
from backupd.cli.opening import load_settings

if TYPE_CHECKING:
    from backupd.config.settings import ModelSettings, Settings
    from backupd.operations.catalog import Catalog
    from backupd.operations.reports import SnapshotInfo

_MODEL_COLUMNS = (
    Column("MODEL"),
    Column("STATE"),
    Column("NEWEST"),
    Column("TAKEN"),
    Column("NEXT", drop=1),
    Column("ON", shrink=6),
    Column("LACKED BY", shrink=6),
)
_TARGET_COLUMNS = (
    Column("TARGET"),
    Column("SNAPSHOTS", right=True),
    Column("STATE", shrink=28, wrap=True),
)
_UPKEEP_COLUMNS = (
    Column("UPKEEP"),
    Column("TARGET"),
    Column("STATE"),
    Column("LAST DONE", drop=1),
    Column("NEXT"),
)
# Fields of the daemon's answer that are seconds since the epoch.
_TIMES = frozenset(
    {
        "started",
        "now",
        "time",
        "snapshot_time",
        "last_run",
        "last_good",
        "next_run",
        "error_time",
        "failed_since",
    }
)


@command(
    "status",
    exits=(errors.EXIT_FAILED, errors.EXIT_TARGET, errors.EXIT_KEY, errors.EXIT_DAMAGED),
    examples=(
        ("backupd status", "is it running, and how old is the newest snapshot of each model"),
        ("backupd status --json | jq .running", "for a script"),
    ),
)
@click.pass_obj
def status_command(app: App) -> None:
    """Show the daemon, the models and the targets.

    The running daemon is asked. Without one, the targets themselves are: what is stored is
    shown then, and that nothing watches the models.

    Requests to stores are counted by day (UTC) and priced: by `prices` of the target, for
    Amazon's store else by its list prices. A HEAD counts as a GET.

    A model's state is running, pending, ok, new (no snapshot yet), partial (something is
    missing on a target), failed, stale (the newest is older than the schedule allows),
    missing (its folder is) or unwatched (no daemon runs). LACKED BY names the targets that
    the newest snapshot is still to be copied to, with how many they are owed.
    """
    from backupd.daemon import client

    settings = load_settings(app, quickly=True)
    try:
        reply = client.status(settings.state_dir)
    except client.DaemonAbsentError:
        _show_stored(app, settings)
    else:
        _show_daemon(app, settings, reply)


def _show_stored(app: App, settings: Settings) -> None:
    """What the targets tell, where there is no daemon to ask."""
    from backupd.cli import requests
    from backupd.cli.progress import shown_progress
    from backupd.operations.catalog import read_catalog
    from backupd.operations.installation import open_installation

    with (
        open_installation(settings, environment=app.environment, clock=app.clock) as installation,
        shown_progress(app) as progress,
    ):
        catalog = read_catalog(installation, host=settings.host, progress=progress)
    newest: dict[str, SnapshotInfo] = {}
    for item in sorted(catalog.snapshots, key=lambda item: item.info.version):
        newest[item.info.model] = item.info
    models = [_stored_model(model, newest.get(name)) for name, model in settings.models.items()]
    targets = [_stored_target(name, catalog) for name in settings.targets]
    output.document(
        app,
        {
            "running": False,
            "daemon": None,
            "models": [_in_utc(model) for model in models],
            "targets": targets,
            "upkeep": [],
            "jobs": [],
            "requests": requests.request_documents(settings),
        },
    )
    output.say(app, "The daemon is not running: nothing watches the models.")
    output.say(app, "Start it with `systemctl start backupd` or `backupd run`.\n")
    output.table(app, _MODEL_COLUMNS, [_model_row(app, model) for model in models])
    output.say(app)
    output.table(app, _TARGET_COLUMNS, [_target_row(target) for target in targets])
    requests.say_requests(app, settings)
    if catalog.damaged:
        output.warn(
            app, f"{count(len(catalog.damaged), 'object')} cannot be read; see `backupd check`"
        )


def _stored_model(model: ModelSettings, info: SnapshotInfo | None) -> dict[str, Any]:
    on = info.targets if info else ()
    return {
        "model": model.name,
        "path": str(model.path),
        "schedule": model.schedule,
        "state": "unwatched",
        "snapshot": info.name if info else None,
        "snapshot_time": info.time if info else None,
        "next_run": None,
        "error": None,
        "targets": [
            {"target": name, "version": info.version if info and name in on else None}
            for name in model.targets
        ],
    }


def _stored_target(name: str, catalog: Catalog) -> dict[str, Any]:
    error = catalog.unreachable.get(name)
    number = sum(name in item.info.targets for item in catalog.snapshots)
    return {
        "target": name,
        "snapshots": None if error else number,
        **(error_document(explain(error)) if error else {"error": None}),
    }


def _target_row(target: Mapping[str, Any]) -> tuple[str, ...]:
    if target["error"]:
        return (target["target"], "", printable(target["error"]["message"]))
    return (target["target"], f"{target['snapshots']:,}", "reached")


def _show_daemon(app: App, settings: Settings, reply: Mapping[str, Any]) -> None:
    from backupd.cli import requests

    models = [_daemon_model(model) for model in reply.get("models", ())]
    own = ("pid", "version", "host", "configuration", "state_dir", "started", "reload", "warnings")
    output.document(
        app,
        {
            "running": True,
            "daemon": _in_utc({name: reply.get(name) for name in own}),
            "models": [_in_utc(model) for model in models],
            "targets": [],
            "upkeep": [_in_utc(job) for job in reply.get("upkeep", ())],
            "jobs": [_in_utc(job) for job in reply.get("jobs", ())],
            "requests": requests.request_documents(settings),
        },
    )
    output.say(
        app,
        f"The daemon runs: pid {reply.get('pid')}, since {_moment(reply.get('started'))},"
        f" with {printable(str(reply.get('configuration')))}\n",
    )
    output.table(app, _MODEL_COLUMNS, [_model_row(app, model) for model in models])
    _say_jobs(app, reply.get("jobs", ()))
    output.say(app)
    output.table(app, _UPKEEP_COLUMNS, [_upkeep_row(app, job) for job in reply.get("upkeep", ())])
    requests.say_requests(app, settings)
    _warn(app, reply, models)


def _daemon_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """The daemon's words for a model, its name and its targets' under the names of `--json`."""
    shown = {"model": model.get("name"), **{k: v for k, v in model.items() if k != "name"}}
    shown["snapshot"] = model.get("snapshot") or None
    shown["error"] = model.get("error") or None
    shown["targets"] = [
        {
            "target": target.get("name"),
            "state": target.get("state"),
            "version": target.get("version") or None,
            "owed": target.get("owed") or 0,
            "last_good": target.get("last_good"),
            "failed_since": target.get("failed_since"),
            "failures": target.get("failures") or 0,
            "error": target.get("error") or None,
        }
        for target in model.get("targets", ())
    ]
    return shown


def _model_row(app: App, model: Mapping[str, Any]) -> tuple[str, ...]:
    now = app.clock()
    snapshot = model.get("snapshot")
    taken = model.get("snapshot_time")
    following = model.get("next_run")
    newest = max((t.get("version") or 0 for t in model["targets"]), default=0)
    # A daemon that found nothing changed since it started knows only that nothing is missing.
    on = [
        t["target"]
        for t in model["targets"]
        if (t.get("version") == newest if newest else t.get("last_good"))
    ]
    return (
        str(model["model"]),
        str(model.get("state")),
        str(snapshot).rpartition("@")[2] if snapshot else "unchanged" if on else "none yet",
        ago(now - taken) if taken else "",
        until(following - now) if following else "",
        ",".join(on),
        ",".join(_lacking(t) for t in model["targets"] if t["target"] not in on),
    )


def _lacking(target: Mapping[str, Any]) -> str:
    """A target that lacks the newest, and how many snapshots it is known to be owed."""
    owed = target.get("owed") or 0
    return f"{target['target']} ({owed})" if owed > 1 else str(target["target"])


def _upkeep_row(app: App, job: Mapping[str, Any]) -> tuple[str, ...]:
    now = app.clock()
    last, following = job.get("last_good"), job.get("next_run")
    return (
        str(job.get("job")),
        str(job.get("target") or "all"),
        str(job.get("state")),
        ago(now - last) if last else "never",
        until(following - now) if following else "never",
    )


def _say_jobs(app: App, jobs: Sequence[Mapping[str, Any]]) -> None:
    for job in jobs:
        to = f" to {job['target']}" if job.get("target") else ""
        parts = [f"\n{job.get('state')}: {job.get('job')} {job.get('name') or 'of all'}{to}"]
        done, total = job.get("done_bytes") or 0, job.get("total_bytes") or 0
        if job.get("phase"):
            parts.append(str(job["phase"]))
        if total:
            parts.append(f"{size(done)} of {size(total)} ({percent(done, total)})")
        elif done:
            parts.append(size(done))
        seconds = float(job.get("seconds") or 0)
        parts.append(f"for {span(seconds)}")
        if seconds and 0 < done < total:
            parts.append(f"{span(seconds * (total - done) / done)} left")
        output.say(app, printable(", ".join(parts).lstrip("\n")))


def _warn(app: App, reply: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> None:
    for model in models:
        if model.get("error"):
            output.warn(app, f"{model['model']}: {printable(model['error'])}")
        for target in model["targets"]:
            if target.get("error") and target["error"] != model.get("error"):
                since = target.get("failed_since")
                failing = f"failing since {ago(app.clock() - since)}: " if since else ""
                where = f"{model['model']} on {target['target']}"
                output.warn(app, f"{where}: {failing}{printable(target['error'])}")
        watch = model.get("watch") or {}
        if watch.get("why"):
            output.note(app, f"{model['model']}: {printable(str(watch['why']))}")
    for job in reply.get("upkeep", ()):
        if job.get("error"):
            output.warn(
                app, f"{job.get('job')} {job.get('target') or ''}: {printable(job['error'])}"
            )
        elif job.get("note"):
            output.note(
                app, f"{job.get('job')} {job.get('target') or ''}: {printable(job['note'])}"
            )
    failed = (reply.get("reload") or {}).get("error")
    if failed:
        output.warn(app, f"the last reload was refused: {printable(failed)}")
    for warning in reply.get("warnings", ()):
        output.warn(app, printable(str(warning)))


def _in_utc(value: Any) -> Any:
    """The same with every time as ISO 8601 instead of seconds."""
    if isinstance(value, Mapping):
        return {
            name: utc_time(item)
            if name in _TIMES and isinstance(item, int | float)
            else _in_utc(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_in_utc(item) for item in value]
    return value


def _moment(seconds: object) -> str:
    return local_time(seconds) if isinstance(seconds, int | float) else "an unknown time"
