"""`docs/commands.md`, made from the help of every command: `python -m backupd.cli.reference`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from backupd.cli.main import PROGRAM, cli
from backupd.cli.topics import TOPICS

_INTRODUCTION = """\
# The commands

What `backupd COMMAND --help` and `backupd help TOPIC` say, on one page. It is made from them:
`python -m backupd.cli.reference` writes it anew.
"""


def render_reference() -> str:
    """The text of `docs/commands.md`."""
    root = click.Context(cli, info_name=PROGRAM, **cli.context_settings)
    parts = [_INTRODUCTION, _block(PROGRAM, cli.get_help(root))]
    parts += [_block(title, text) for title, text in _pages(cli, root)]
    parts += [_block(f"{PROGRAM} help {name}", text) for name, text in TOPICS.items()]
    return "\n".join(parts)


def _pages(group: click.Group, parent: click.Context) -> Iterator[tuple[str, str]]:
    for name in group.list_commands(parent):
        found = group.get_command(parent, name)
        if found is None:
            continue
        here = click.Context(found, info_name=name, parent=parent)
        yield here.command_path, found.get_help(here)
        if isinstance(found, click.Group):
            yield from _pages(found, here)


def _block(title: str, text: str) -> str:
    return f"## {title}\n\n```text\n{text.rstrip()}\n```\n"


if __name__ == "__main__":
    Path(__file__).parents[2].joinpath("docs", "commands.md").write_text(render_reference())
