"""`key export`, `key add`, `key remove` and `key list`: who can open the repositories."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from backupd import errors
from backupd.cli import output
from backupd.cli.app import App
from backupd.cli.command import command, help_when_alone
from backupd.cli.formatting import Column, printable
from backupd.cli.opening import opened

_COLUMNS = (
    Column("KEY"),
    Column("KIND", drop=1),
    Column("LABEL", shrink=8),
    Column("MADE", drop=2),
    Column("TARGETS", shrink=8),
    Column("PROBLEM", shrink=12),
)
_MAX_PASSPHRASE_BYTES = 64 * 1024


@click.group("key", invoke_without_command=True, subcommand_metavar="COMMAND ...")
@click.pass_context
def key_group(ctx: click.Context) -> None:
    """Export, add, remove and list the keys that open the repositories.

    The data is sealed with one master key, which each key or passphrase opens. Adding or
    removing one rewrites nothing else.
    """
    help_when_alone(ctx)


@command(
    "export",
    exits=errors.REPOSITORY_EXITS,
    examples=(("backupd key export | ssh safe 'cat > backupd.key'", "onto another machine"),),
)
@click.pass_obj
def export_command(app: App) -> None:
    """Print the key that the configuration opens the repositories with.

    Whoever has it can read every snapshot. Without any key nobody can: keep a copy where
    the loss of this machine does not reach.
    """
    from backupd.operations.keys import export_key

    with opened(app) as installation:
        key = export_key(installation)
    output.document(app, {"key": key})
    output.result(app, key)


@command(
    "add",
    exits=errors.REPOSITORY_EXITS,
    examples=(
        ("backupd key add --label safe", "asks for a passphrase twice"),
        ("backupd key add --recovery", "makes one more recovery key, and prints it once"),
        ("backupd key add --from-file /root/second", "takes the key or passphrase from a file"),
        ("backupd key add --host box7 --to box7.key", "makes the key of one host, into a file"),
    ),
)
@click.option("--label", metavar="TEXT", default="", help="What `key list` calls it.")
@click.option("--recovery", is_flag=True, help="Make a recovery key, and print it.")
@click.option(
    "--host",
    metavar="HOST",
    default="",
    help="Make the key of this host; `key remove HOST` revokes it.",
)
@click.option(
    "--to",
    metavar="FILE",
    type=click.Path(exists=False, dir_okay=False, path_type=Path),
    help="Write the key that is made into this new file, and do not print it.",
)
@click.option(
    "--from-file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read the key or passphrase here instead of asking.",
)
@click.pass_obj
def add_command(
    app: App, label: str, recovery: bool, host: str, to: Path | None, from_file: Path | None
) -> None:
    """Let one more key or passphrase open the repositories.

    All targets must be reached: a key that opens only some would be found out on the worst
    of days.
    """
    if sum(map(bool, (recovery, host, from_file))) > 1:
        raise click.UsageError(
            "--recovery and --host make a key, and --from-file brings one; choose"
        )
    if host and label:
        raise click.UsageError("the key of a host is called by its name; leave --label out")
    made = bool(recovery or host)
    if to and not made:
        raise click.UsageError("--to is for a key that is made, by --host or --recovery")
    from backupd.operations.keys import add_key, new_recovery_key, refuse_taken_host

    with opened(app) as installation:
        if host:
            refuse_taken_host(installation, host)
        if made:
            secret = new_recovery_key(installation)
        else:
            secret = _read(from_file) if from_file else _ask()
        if to:
            _write(to, secret)
        label = label or host or ("recovery" if recovery else "passphrase")
        try:
            added = add_key(installation, secret, label=label)
        except errors.BackupdError:
            if to:
                to.unlink()  # it opens nothing
            raise
    shown = secret if made and not to else None
    output.document(app, {"label": label, "targets": dict(added), "key": shown})
    output.say(app, f"added key {printable(label)} to {', '.join(added)}")
    if shown:
        output.result(app, shown)


def _write(path: Path, secret: str) -> None:
    """Keep the key in a new file that only its owner may read."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise errors.UsageError(
            f"{path} cannot be made: {error.strerror}", hint="name a file that is not there yet"
        ) from None


def _read(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(_MAX_PASSPHRASE_BYTES)
    text = raw.decode("utf-8", "surrogateescape").rstrip("\r\n")
    if not text:
        raise errors.UsageError(f"{path} is empty", hint="write the passphrase on its first line")
    return text


def _ask() -> str:
    if not sys.stdin.isatty():
        raise errors.UsageError(
            "there is no terminal to ask for a passphrase", hint="name a file with --from-file"
        )
    entered: str = click.prompt(
        "New passphrase", hide_input=True, confirmation_prompt="Once more", err=True
    )
    return entered


@command(
    "remove",
    exits=errors.REPOSITORY_EXITS,
    examples=(
        ("backupd key remove 3f2a91c4", "the key of that id no longer opens anything"),
        ("backupd key remove recovery", "the one of that label"),
    ),
)
@click.argument("key", metavar="KEY")
@click.pass_obj
def remove_command(app: App, key: str) -> None:
    """Take a key away from the repositories of all targets.

    KEY is an id from `backupd key list`, its unique beginning, or a label. The last key is
    never removed, nor the one that the configuration uses. It opens nothing from then on, yet
    nothing is sealed anew: who had it may have kept what it opened.
    """
    from backupd.operations.keys import remove_key

    with opened(app) as installation:
        removed = remove_key(installation, key)
    output.document(app, {"removed": key, "targets": list(removed)})
    output.say(app, f"removed key {printable(key)} from {', '.join(removed)}")
    output.say(
        app,
        "who had it may have kept the master key: take away the credentials of the targets too"
        " (docs/operating.md, Keys for many hosts)",
    )


@command(
    "list",
    exits=errors.REPOSITORY_EXITS,
    examples=(("backupd key list", "what opens the repositories, and since when"),),
)
@click.pass_obj
def list_command(app: App) -> None:
    """Show what opens the repositories, but not the keys."""
    from backupd.operations.keys import list_keys

    with opened(app) as installation:
        found = list_keys(installation)
    output.document(
        app,
        {
            "keys": [
                {
                    "key_id": key.info.key_id,
                    "kind": key.info.kind,
                    "label": key.info.label,
                    "created": key.info.created,
                    "targets": list(key.targets),
                    "problem": key.problem or None,
                }
                for key in found
            ]
        },
    )
    output.table(
        app,
        _COLUMNS,
        [
            (
                key.info.key_id[:12],
                key.info.kind,
                printable(key.info.label),
                printable(key.info.created),
                ",".join(key.targets),
                printable(key.problem),
            )
            for key in found
        ],
    )


for _command in (export_command, add_command, remove_command, list_command):
    key_group.add_command(_command)
