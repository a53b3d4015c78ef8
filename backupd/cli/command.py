"""The form of every command: common options in either place, examples, exit codes, lazy loading.

What the commands do is in `commands/`; this module knows only how they are found and described.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from backupd.cli.app import App

EXIT_CODES: Mapping[int, str] = {
    0: "done",
    1: "failed",
    2: "wrong usage or configuration",
    3: "done in part, what is missing is named",
    4: "no such model or snapshot",
    5: "a target cannot be reached",
    6: "wrong or missing key",
    7: "the repository is damaged",
    130: "interrupted",
}

_Callback = TypeVar("_Callback", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Lazy:
    """Where a command lives, and its one line in the list of commands."""

    module: str
    attribute: str
    summary: str
    section: str


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Puts a common option into the invocation's `App`; the command itself never sees it."""
    if param.name is None or value is None or value is False or ctx.resilient_parsing:
        return
    app = ctx.ensure_object(App)
    if param.name == "no_progress":
        app.progress = False
    else:
        setattr(app, param.name, value)


def common_options() -> list[click.Parameter]:
    """Fresh copies of the options that every command takes, before its name or after it."""

    def option(*names: str, **rest: Any) -> click.Option:
        return click.Option(names, expose_value=False, callback=_remember, **rest)

    return [
        option("--config", metavar="FILE", help="Use this configuration file."),
        option("--json", is_flag=True, help="Answer with one JSON document."),
        option("-v", "--verbose", is_flag=True, help="Tell more; leave nothing out of lists."),
        option("-q", "--quiet", is_flag=True, help="Only answers, warnings and errors."),
        option("--no-progress", is_flag=True, help="Show no progress bar."),
    ]


class Command(click.Command):
    """A command with examples and exit codes in its help.

    `examples` are (command line, what it does); `exits` the codes it may end with besides 0, 2
    and 130, which all of them share.
    """

    def __init__(
        self,
        *args: Any,
        examples: Sequence[tuple[str, str]] = (),
        exits: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.exits = tuple(sorted({0, 2, *exits, 130}))
        self.own = tuple(self.params)
        self.params = [*self.params, *common_options()]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options; the common ones are named in one line."""
        # Arguments are told in the text; some versions of click would list them here.
        options = [param for param in self.own if isinstance(param, click.Option)]
        records = [record for option in options if (record := option.get_help_record(ctx))]
        records.append(("-h, --help", "Show this page."))
        with formatter.section("Options"):
            formatter.write_dl(records)
        formatter.write_paragraph()
        formatter.write_text(
            "Common: --config FILE, --json, -v, -q, --no-progress (see `backupd --help`)"
        )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples, then exit codes."""
        if self.examples:
            with formatter.section("Examples"):
                for line, meaning in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
                    formatter.indent()
                    formatter.indent()
                    formatter.write_text(meaning)
                    formatter.dedent()
                    formatter.dedent()
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), EXIT_CODES[code]) for code in self.exits])


def command(
    name: str, *, examples: Sequence[tuple[str, str]] = (), exits: Sequence[int] = ()
) -> Callable[[Callable[..., Any]], Command]:
    """`click.command` for `Command`."""

    def decorate(function: Callable[..., Any]) -> Command:
        return click.command(name, cls=Command, examples=examples, exits=exits)(function)

    return decorate


def help_when_alone(ctx: click.Context) -> None:
    """For a group that is called without a command: its help, which is what was wanted."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run, and listed without being imported."""

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, Lazy] | None = None,
        topics: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy or {})
        self.topics = dict(topics or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order in which the help shows them."""
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        entry = self.lazy.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        loaded = getattr(importlib.import_module(entry.module), entry.attribute)
        if not isinstance(loaded, click.Command):
            raise TypeError(f"{entry.module}:{entry.attribute} is no command")
        return loaded

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the nearest names where there is no such command."""
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            from backupd.policy.nearest import nearest_names  # only a mistake needs it

            near = nearest_names(name, self.list_commands(ctx))
            meant = f"; did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else ""
            ctx.fail(f"there is no command `{name}`{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by section, from their summaries alone."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self.lazy.items():
            sections.setdefault(entry.section, []).append((name, entry.summary))
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=14, col_spacing=2)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Where more is to be read."""
        if self.topics:
            with formatter.section("More"):
                formatter.write_dl([(f"help {name}", line) for name, line in self.topics.items()])
