"""The command `backupd`: its list of commands, and the way from arguments to an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from backupd import __version__
from backupd.cli import errors, output
from backupd.cli.app import App
from backupd.cli.command import Lazy, LazyGroup, common_options, help_when_alone
from backupd.errors import EXIT_DONE

PROGRAM = "backupd"

_START = "Set up"
_DAILY = "Every day"
_KEEPING = "Keeping"
_TRUST = "Trusting"
_MACHINE = "Daemon and configuration"


def _lazy(module: str, attribute: str, summary: str, section: str) -> Lazy:
    return Lazy(f"backupd.cli.commands.{module}", attribute, summary, section)


COMMANDS = {
    "quickstart": _lazy("quickstart", "quickstart_command", "Set up and watch a folder.", _START),
    "init": _lazy("setup", "init_command", "Create the repositories.", _START),
    "run": _lazy("setup", "run_command", "Run the daemon in the foreground.", _START),
    "snapshot": _lazy("snapshot", "snapshot_command", "Take a snapshot now.", _DAILY),
    "list": _lazy("listing", "list_command", "Show the snapshots.", _DAILY),
    "show": _lazy("listing", "show_command", "Show all about one snapshot.", _DAILY),
    "files": _lazy("listing", "files_command", "Show the files of a snapshot.", _DAILY),
    "diff": _lazy("comparing", "diff_command", "Compare two snapshots.", _DAILY),
    "log": _lazy("history", "log_command", "Draw the history of a model.", _DAILY),
    "restore": _lazy("restore", "restore_command", "Give a snapshot back.", _DAILY),
    "mount": _lazy("mounting", "mount_command", "Show snapshots as folders.", _DAILY),
    "export": _lazy("exporting", "export_command", "Give snapshots as tar or folders.", _DAILY),
    "import": _lazy("importing", "import_command", "Take a model's past in.", _DAILY),
    "switch": _lazy("switching", "switch_command", "Make a folder be a version.", _DAILY),
    "label": _lazy("snapshot", "label_command", "Put labels on a snapshot.", _DAILY),
    "forget": _lazy("keeping", "forget_command", "Drop snapshots.", _KEEPING),
    "policy": _lazy("keeping", "policy_command", "Show what is kept, and why.", _KEEPING),
    "prune": _lazy("keeping", "prune_command", "Reclaim the space.", _KEEPING),
    "extend": _lazy("holding", "extend_command", "Extend the Object Lock.", _KEEPING),
    "undelete": _lazy("holding", "undelete_command", "Bring back what was deleted.", _TRUST),
    "check": _lazy("checking", "check_command", "Verify what is stored.", _TRUST),
    "repair": _lazy("mending", "repair_command", "Mend what is damaged.", _TRUST),
    "drill": _lazy("mending", "drill_command", "Restore for practice.", _TRUST),
    "sync": _lazy("syncing", "sync_command", "Bring targets up to date.", _TRUST),
    "key": _lazy("keys", "key_group", "Export, add and remove keys.", _TRUST),
    "status": _lazy("status", "status_command", "Show the daemon and the models.", _MACHINE),
    "config": _lazy("configuration", "config_group", "Check the configuration.", _MACHINE),
    "doctor": _lazy("doctor", "doctor_command", "Examine the machine.", _MACHINE),
    "completion": _lazy("helping", "completion_command", "Print a completion script.", _MACHINE),
    "help": _lazy("helping", "help_command", "Show the help of a command or topic.", _MACHINE),
}
TOPICS = {
    "snapshots": "how a SNAPSHOT is named",
    "patterns": "how a GLOB is written",
    "environment": "the variables that backupd reads",
    "exit-codes": "what each exit code means",
    "json": "what --json answers",
}


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"{PROGRAM} {__version__}")
        ctx.exit()


@click.group(
    name=PROGRAM,
    cls=LazyGroup,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    lazy=COMMANDS,
    topics=TOPICS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    params=[
        *common_options(),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Show the version.",
        ),
    ],
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Back up models on training boxes, and give them back.

    backupd watches model folders, takes a snapshot of what changed, keeps it encrypted in
    one or several targets (a disk, a NAS, an S3 bucket), proves that it can be read back,
    and restores any version. Start with `backupd quickstart DIR`.

    Without --config: $BACKUPD_CONFIG, then ~/.config/backupd/backupd.yaml, then
    /etc/backupd/backupd.yaml.
    """
    app = ctx.ensure_object(App)
    ctx.color = output.wants_color(app.environment)
    help_when_alone(ctx)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code; nothing is raised.

    `arguments` are those behind the program's name, the process's own when None.
    """
    instruction = os.environ.get("_BACKUPD_COMPLETE", "")
    if instruction:
        from backupd.cli.completion import answer

        return answer(cli, instruction)
    app = App()
    try:
        code = run(app, list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except Exception as error:
        return errors.report(error, app)
    except KeyboardInterrupt as error:
        return errors.report(error, app)
    return code


def run(app: App, arguments: list[str]) -> int:
    """Runs one command line in `app`; returns the exit code, or raises what stopped it."""
    # click's own `main` is left out: it ends the process itself on a broken pipe, and turns
    # Ctrl-C into an error of its own.
    try:
        with cli.make_context(PROGRAM, arguments, obj=app) as ctx:
            code = cli.invoke(ctx)
    except click.exceptions.Exit as error:
        return error.exit_code
    return code if isinstance(code, int) else EXIT_DONE
