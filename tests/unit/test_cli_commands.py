"""The commands as a whole: every one loads, is described, and costs nothing before it is run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest

from backupd import __version__
from backupd.cli import topics
from backupd.cli.app import App
from backupd.cli.command import EXIT_CODES, Command
from backupd.cli.main import COMMANDS, TOPICS, cli, main, run
from backupd.cli.reference import render_reference
from backupd.errors import BackupdError

HEAVY = (
    "numpy",
    "boto3",
    "botocore",
    "rich",
    "structlog",
    "apscheduler",
    "watchdog",
    "backupd.operations",
)


@pytest.fixture(autouse=True)
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own configuration is seen, and nothing is written beside it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("BACKUPD_CONFIG", "XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)


def every_command(
    group: click.Group = cli, prefix: str = "", parent: click.Context | None = None
) -> Iterator[tuple[str, click.Command, click.Context]]:
    ctx = click.Context(group, info_name=group.name, parent=parent, **group.context_settings)
    for name in group.list_commands(ctx):
        loaded = group.get_command(ctx, name)
        assert loaded is not None
        here = click.Context(loaded, info_name=name, parent=ctx)
        if isinstance(loaded, click.Group):
            yield from every_command(loaded, f"{prefix}{name} ", ctx)
        else:
            yield f"{prefix}{name}", loaded, here


COMMAND_LIST = list(every_command())


@pytest.mark.parametrize("name", [name for name, _, _ in COMMAND_LIST])
def test_every_command_has_a_summary_examples_and_exit_codes(name: str) -> None:
    [(_, found, ctx)] = [item for item in COMMAND_LIST if item[0] == name]
    assert isinstance(found, Command)
    assert found.examples
    shown = found.get_help(ctx)
    assert "Examples:" in shown
    assert "Exit codes:" in shown
    assert all(f"  {code}" in shown for code in found.exits)
    too_long = [line for line in shown.splitlines() if len(line) > 80]
    # A command line that is to be copied is not folded; everything else is.
    assert all(line.strip() in {example for example, _ in found.examples} for line in too_long)


@pytest.mark.parametrize("name", [name for name, _, _ in COMMAND_LIST])
def test_every_option_says_what_it_does(name: str) -> None:
    [(_, found, _)] = [item for item in COMMAND_LIST if item[0] == name]
    silent = [
        option.opts
        for option in found.params
        if isinstance(option, click.Option)
        if not option.help
    ]
    assert silent == []


def test_the_list_of_commands_names_what_there_is() -> None:
    assert {name.split()[0] for name, _, _ in COMMAND_LIST} == set(COMMANDS)
    assert set(TOPICS) == set(topics.TOPICS)


def test_topics_fit_the_terminal_and_the_exit_codes_are_all_there() -> None:
    for text in topics.TOPICS.values():
        assert max(map(len, text.splitlines())) <= 80
    assert all(
        f"{code}  {meaning}" in topics.TOPICS["exit-codes"] for code, meaning in EXIT_CODES.items()
    )


def test_version_and_help_import_nothing_heavy(tmp_path: Path) -> None:
    for arguments in (["--version"], ["--help"], ["list", "--help"], ["status", "--help"]):
        loaded = modules_after(arguments, tmp_path)
        heavy = {name for name in loaded if name.startswith((*HEAVY, "pydantic", "yaml"))}
        assert heavy - {"backupd.operations.progress"} == set(), arguments


def modules_after(arguments: Sequence[str], home: Path) -> set[str]:
    """The modules that one command line leaves loaded in a fresh interpreter."""
    code = (
        "import sys\nbefore = set(sys.modules)\nfrom backupd.cli.main import main\n"
        f"main({list(arguments)!r})\n"
        "print('\\n'.join(sorted(set(sys.modules) - before)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.split())


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"backupd {__version__}\n"


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Set up:" in capsys.readouterr().out
    assert main(["key"]) == 0
    assert "Usage: backupd key " in capsys.readouterr().out


def test_a_misspelt_command_is_met_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["restor"]) == 2
    assert capsys.readouterr().err == (
        "error: there is no command `restor`; did you mean `restore`?\nhint: see `backupd --help`\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["restore"], "missing argument 'SNAPSHOT'"),
        (["restore", "a@v1", "--nosuch"], "no such option"),
        (["snapshot", "--metric", "loss=low"], "write KEY=NUMBER"),
        (["snapshot", "--metric", "loss=nan"], "write KEY=NUMBER"),
        (["snapshot", "--label", "=x"], "write KEY=VALUE"),
        (["check", "--read-data", "150%"], "write 5 or 5%"),
        (["policy", "m", "--simulate", "soon"], "is no duration"),
        (["label", "m@v1"], "there is no label to set or to remove"),
        (["label", "m@v1", "a=b", "--remove", "a"], "both set and removed"),
        (["forget", "m@v1", "--model", "m"], "not both"),
        (["list", "--config", "x", "--repository", "y"], "stands in for a configuration"),
        (["help", "nosuch"], "no command `nosuch`"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
    ],
)
def test_wrong_usage_is_one_sentence_and_ends_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("place", ["before", "after"])
def test_common_options_may_stand_on_either_side_of_the_command(place: str, tmp_path: Path) -> None:
    options = ["--json", "-q", "-v", "--no-progress", "--config", str(tmp_path / "none.yaml")]
    arguments = [*options, "list"] if place == "before" else ["list", *options]
    app = App()
    with pytest.raises(BackupdError, match="there is no such file"):
        run(app, arguments)
    assert (app.json, app.quiet, app.verbose, app.progress) == (True, True, True, False)
    assert app.config == str(tmp_path / "none.yaml")


def test_without_a_configuration_the_error_says_how_to_get_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--json", "list"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["kind"] == "usage"
    assert "quickstart" in captured.err


@pytest.mark.parametrize("topic", sorted(TOPICS))
def test_help_shows_topics(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", topic]) == 0
    assert capsys.readouterr().out == topics.TOPICS[topic]


def test_help_shows_commands_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "key", "add"]) == 0
    assert capsys.readouterr().out.startswith("Usage: backupd key add [OPTIONS]\n")


def test_the_page_of_commands_is_what_the_help_says() -> None:
    page = Path(__file__).parents[2] / "docs" / "commands.md"
    assert page.read_text() == render_reference(), "run `python -m backupd.cli.reference`"


def test_no_color_and_a_dumb_terminal_turn_colours_off() -> None:
    from backupd.cli.output import wants_color

    assert wants_color({"NO_COLOR": "1"}) is False
    assert wants_color({"TERM": "dumb"}) is False
    assert wants_color({"NO_COLOR": "", "TERM": "xterm"}) is None
