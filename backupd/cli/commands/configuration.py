"""`config check`, `schema`, `systemd` and `notify`: the file, and what is made of it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import click

from backupd import errors
from backupd.cli import output
from backupd.cli.app import App
from backupd.cli.command import command, help_when_alone
from backupd.cli.formatting import count
from backupd.cli.opening import config_path, load_settings

# What systemd/backupd.service starts; elsewhere the drop-in says where the program is.
_INSTALLED = "/usr/local/bin/backupd"


@click.group("config", invoke_without_command=True, subcommand_metavar="COMMAND ...")
@click.pass_context
def config_group(ctx: click.Context) -> None:
    """Check the configuration, describe it, or fit the systemd unit to it."""
    help_when_alone(ctx)


@command(
    "check",
    examples=(
        ("backupd config check", "the file that every command would take"),
        ("backupd --config new.yaml config check", "another one, before it is put in place"),
    ),
)
@click.pass_obj
def check_command(app: App) -> int:
    """Say all that is wrong with the configuration, and the mend.

    Only the file is read: no target is asked, and nothing is written.
    """
    from backupd.config.load import check_config

    path = config_path(app)
    settings, problems = check_config(path, app.environment)
    output.document(
        app,
        {
            "file": str(path),
            "valid": settings is not None,
            "problems": [
                {
                    "file": problem.file,
                    "line": problem.line,
                    "message": problem.message,
                    "hint": problem.hint or None,
                }
                for problem in problems
            ],
            "warnings": list(settings.warnings) if settings else [],
        },
    )
    if settings is None:
        for problem in problems:
            output.result(app, f"{problem.file}:{problem.line}: {problem.message}")
            if problem.hint:
                output.result(app, f"    {problem.hint}")
        output.say(app, f"\n{count(len(problems), 'problem')}")
        return errors.EXIT_USAGE
    for warning in settings.warnings:
        output.warn(app, warning)
    output.say(
        app,
        f"{path} is right: {count(len(settings.models), 'model')},"
        f" {count(len(settings.targets), 'target')},"
        f" {count(len(settings.policies), 'policy', 'policies')}",
    )
    return errors.EXIT_DONE


@command(
    "schema",
    examples=(("backupd config schema > backupd.schema.json", "for an editor that completes"),),
)
def schema_command() -> None:
    """Print the JSON schema of the configuration (draft 2020-12)."""
    from backupd.config.reference import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@command(
    "systemd",
    examples=(
        (
            "backupd config systemd | sudo tee /etc/systemd/system/backupd.service.d/paths.conf",
            "opens the unit's sandbox for the models and targets of the configuration",
        ),
        ("sudo systemctl daemon-reload && sudo systemctl restart backupd", "and takes it"),
    ),
)
@click.pass_obj
def systemd_command(app: App) -> None:
    """Print the drop-in that fits the systemd unit to a configuration.

    Make it anew whenever a path, a target or the key's place changes.
    """
    from backupd.config.systemd import render_drop_in
    from backupd.config.systemd_box import read_box

    path = config_path(app).absolute()
    settings = load_settings(app)
    program = _program()
    named = [] if app.config == "" else ["--config", str(path)]
    command_line = [program, *named, "run"] if named or program != _INSTALLED else []
    box = read_box(settings, program=command_line, code=_code_folders())
    click.echo(render_drop_in(settings, box), nl=False)


@command(
    "notify",
    exits=(errors.EXIT_FAILED,),
    examples=(("backupd config notify", "a test message to every address"),),
)
@click.pass_obj
def notify_command(app: App) -> int:
    """Send a test message to all addresses of `notify`.

    The health check is asked for as well, where there is one.
    """
    from backupd.daemon.messages import addresses, ping_url, send_all

    settings = load_settings(app)
    if not settings.notify.enabled:
        raise errors.ConfigError(
            "notify names nobody to tell",
            file=str(settings.source),
            hint="add notify: {urls: [...]}, as docs/configuration.md tells",
        )
    urls = addresses(settings.notify)
    sent = not urls or send_all(
        urls, f"backupd on {settings.host}: a test", "If you read this, messages reach you."
    )
    reached, why = True, ""
    if settings.notify.healthcheck:
        try:
            ping_url(settings.notify.healthcheck)
        except OSError as error:
            reached, why = False, str(error)
    output.document(app, {"addresses": len(urls), "sent": sent, "healthcheck_error": why or None})
    if urls:
        told = count(len(urls), "address", "addresses")
        output.say(app, f"sent to {told}" if sent else f"not all of {told} took the message")
    if not reached:
        output.warn(app, f"the health check was not reached: {why}")
    return errors.EXIT_DONE if sent and reached else errors.EXIT_FAILED


def _program() -> str:
    """The full path of the `backupd` that runs now."""
    started = Path(sys.argv[0])
    if started.name == "backupd" and started.is_file():
        return str(started.absolute())
    beside = Path(sys.executable).parent / "backupd"
    return str(beside) if beside.is_file() else shutil.which("backupd") or _INSTALLED


def _code_folders() -> list[Path]:
    """Where the program's code lies: the environment, its interpreter, and this package."""
    package = Path(__file__).resolve().parents[3]
    return list(dict.fromkeys([Path(sys.prefix), Path(sys.base_prefix), package]))


for _command in (check_command, schema_command, systemd_command, notify_command):
    config_group.add_command(_command)
