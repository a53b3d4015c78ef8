"""`init` and `run`: the repositories, and the daemon."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from backupd import errors
from backupd.cli import output
from backupd.cli.app import App
from backupd.cli.command import command
from backupd.cli.errors import error_document, explain
from backupd.cli.formatting import count, printable
from backupd.cli.opening import config_path, opened

if TYPE_CHECKING:
    from backupd.operations.installation import Installation
    from backupd.operations.setup import InitReport


@command(
    "init",
    exits=(
        errors.EXIT_FAILED,
        errors.EXIT_PARTIAL,
        errors.EXIT_TARGET,
        errors.EXIT_KEY,
        errors.EXIT_DAMAGED,
    ),
    examples=(
        ("backupd init", "a repository on each target that has none yet"),
        ("backupd init --json | jq -r .recovery_key", "the recovery key, for a safe"),
        ("backupd init --from s3://team/box1", "this box in place of the one that is gone"),
    ),
)
@click.option(
    "--from",
    "source",
    metavar="PATH|URL",
    default="",
    help="Set this box up from a repository: its configuration and its key.",
)
@click.option(
    "--host", metavar="HOST", default="", help="With --from: the lost box that this one is to be."
)
@click.pass_obj
def init_command(app: App, source: str, host: str) -> int:
    """Create the repositories of all targets, with one key for all of them.

    A key file that the configuration names and that is not there is made (mode 0600). The
    recovery key is printed once: it opens every repository when the key file is lost, so
    keep it on another machine or on paper. Run it again after adding a target: what is there
    stays as it is.

    With --from the lost box's configuration is taken from its newest snapshot there, and
    written where there is none (--config says where). The key that opened the repository,
    the recovery key for one, becomes the key file. Secrets are not kept beside snapshots:
    what is to be filled in is named.
    """
    if source:
        from backupd.cli.commands.rebuilding import set_up_from

        return set_up_from(app, source, host)
    if host:
        raise click.UsageError("--host goes with --from")
    from backupd.operations.setup import initialise

    with opened(app) as installation:
        report = initialise(installation)
        output.document(app, init_document(report))
        say_init(app, installation, report)
    return errors.EXIT_PARTIAL if report.failed else errors.EXIT_DONE


def init_document(report: InitReport) -> dict[str, Any]:
    """What was made, for `--json`."""
    return {
        "recovery_key": report.recovery_key or None,
        "created": list(report.created),
        "present": list(report.present),
        "key_file": str(report.key_file) if report.key_file else None,
        "failed": [
            {"target": name, **error_document(explain(error))}
            for name, error in report.failed.items()
        ],
    }


def say_init(app: App, installation: Installation, report: InitReport) -> None:
    """What was made, and the recovery key, which nobody says again."""
    for name in report.created:
        output.say(app, f"{name}: made a repository at {_place(installation, name)}")
    for name in report.present:
        output.say(app, f"{name}: the repository at {_place(installation, name)} stays as it is")
    for name, error in report.failed.items():
        output.warn(app, f"{name}: {error}; `backupd init` makes it later")
    if report.key_file:
        output.say(app, f"key file: {report.key_file} (readable by you alone)")
    if report.recovery_key:
        output.result(app, "")
        output.result(app, "Recovery key, shown this once:")
        output.result(app, "")
        output.result(app, f"    {click.style(report.recovery_key, bold=True)}")
        output.result(app, "")
        output.result(app, "It opens the repository when this machine is gone. Keep it elsewhere:")
        output.result(app, "without it and without the key, nobody can read the snapshots.")
        output.result(app, "")
    if not report.created and not report.failed:
        output.say(app, f"{count(len(report.present), 'repository', 'repositories')}, none made")


def _place(installation: Installation, name: str) -> str:
    return printable(installation.target(name).location)


@command(
    "run",
    exits=(errors.EXIT_FAILED, errors.EXIT_TARGET, errors.EXIT_KEY, errors.EXIT_DAMAGED),
    examples=(
        ("backupd run", "watches and snapshots until Ctrl-C or SIGTERM"),
        ("systemctl reload backupd", "SIGHUP takes a new configuration, whole or not at all"),
    ),
)
@click.pass_obj
def run_command(app: App) -> int:
    """Run the daemon in the foreground; this is what systemd starts.

    It watches the models, takes snapshots by their schedules, copies them to all targets,
    forgets, prunes and checks. Log lines go to standard error: readable on a terminal, JSON
    with journald priorities otherwise. One daemon runs per `state_dir`.
    """
    from backupd.daemon.service import run

    return run(config_path(app), environment=app.environment, terminal=sys.stderr.isatty())
