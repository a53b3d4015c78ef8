"""`mount`: snapshots as a folder to look into."""

from __future__ import annotations

from pathlib import Path

import click

from backupd import errors
from backupd.cli import output
from backupd.cli.app import App
from backupd.cli.command import command
from backupd.cli.formatting import printable
from backupd.cli.opening import opened
from backupd.cli.parameters import repository_option


@command(
    "mount",
    exits=(
        errors.EXIT_FAILED,
        errors.EXIT_TARGET,
        errors.EXIT_KEY,
        errors.EXIT_DAMAGED,
    ),
    examples=(
        ("backupd mount /mnt/snapshots", "until Ctrl-C, or `fusermount -u /mnt/snapshots`"),
        ("cmp /mnt/snapshots/llama-ft/v11/last.pt /srv/runs/llama-ft/last.pt", "meanwhile"),
    ),
)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False))
@repository_option
@click.pass_obj
def mount_command(app: App, folder: str, repository: str) -> int:
    """Show the snapshots as read-only folders in DIR, until Ctrl-C.

    In DIR is a folder for each model, in it one for each version, and `latest` for the
    newest. What is read is verified; a file that is damaged gives an error to whoever reads
    it, and the reason is said here. It needs FUSE and the extra `mount` of the package.

    To give a whole snapshot back, `backupd restore` is several times as fast.
    """
    from backupd.operations.mounting import mount

    place = Path(folder).absolute()
    with opened(app, repository) as installation:
        mount(
            installation,
            place,
            tell=lambda message: output.warn(app, printable(message)),
            ready=lambda: output.say(app, f"the snapshots are in {place}; Ctrl-C ends it"),
        )
    return errors.EXIT_DONE
