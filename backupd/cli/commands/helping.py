"""`help` and `completion`."""

from __future__ import annotations

import click

from backupd.cli import completion, topics
from backupd.cli.command import command


@command(
    "help",
    examples=(
        ("backupd help restore", "as `backupd restore --help`"),
        ("backupd help snapshots", "how a SNAPSHOT is named"),
    ),
)
@click.argument("words", metavar="[COMMAND or TOPIC]", nargs=-1)
@click.pass_context
def help_command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the help of a command or of a topic.

    The topics are snapshots, patterns, environment, exit-codes and json.
    """
    root = ctx.find_root()
    if len(words) == 1 and words[0] in topics.TOPICS:
        click.echo(topics.TOPICS[words[0]], nl=False)
        return
    found: click.Command = root.command
    here = root
    for word in words:
        if not isinstance(found, click.Group):
            raise click.UsageError(f"`{here.command_path}` has no commands", ctx=here)
        name, loaded, _ = found.resolve_command(here, [word])
        if loaded is None:
            raise click.UsageError(f"there is no command or topic `{word}`", ctx=root)
        found = loaded
        here = click.Context(found, info_name=name, parent=here)
    click.echo(found.get_help(here))


@command(
    "completion",
    examples=(
        (
            "backupd completion bash > ~/.local/share/bash-completion/completions/backupd",
            "bash, from its next start on",
        ),
        ("source <(backupd completion bash)", "bash, in this shell"),
        ("backupd completion zsh > ~/.zfunc/_backupd", "zsh, where ~/.zfunc is in fpath"),
        ("backupd completion fish > ~/.config/fish/completions/backupd.fish", "fish"),
    ),
)
@click.argument("shell", type=click.Choice(completion.SHELLS))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete backupd.

    It completes commands, options, and the names of models, snapshots (MODEL@vN) and
    targets; names come from the configuration and from the targets of this machine.
    """
    click.echo(completion.script(shell, ctx.find_root().command))
