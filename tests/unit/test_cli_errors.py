"""Errors become one sentence, a hint and an exit code, whatever went wrong."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import click
import pytest

from backupd import errors
from backupd.cli.app import App
from backupd.cli.errors import EXIT_BROKEN_PIPE, explain, report


def app(tmp_path: Path, **changes: object) -> App:
    made = App(environment={"HOME": str(tmp_path)})
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (errors.UsageError("x"), 2, "usage"),
        (errors.ConfigError("x", file="f", line=3), 2, "usage"),
        (errors.PartialError("x"), 3, "partial"),
        (errors.NotFoundError("x"), 4, "not_found"),
        (errors.TargetUnreachableError("x"), 5, "target"),
        (errors.WrongKeyError("x"), 6, "key"),
        (errors.DamagedError("x"), 7, "damaged"),
        (errors.StoppedError("x"), 130, "interrupted"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.UsageError("x"), 2, "usage"),
        (OSError(errno.ENOSPC, "No space left on device", "/mnt/x"), 1, "failed"),
        (MemoryError(), 1, "failed"),
        (ZeroDivisionError("x"), 1, "bug"),
    ],
)
def test_every_error_has_its_exit_code_and_kind(error: BaseException, code: int, kind: str) -> None:
    explanation = explain(error)
    assert (explanation.exit_code, explanation.kind) == (code, kind)


def test_an_error_is_a_sentence_and_a_hint_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = report(errors.NotFoundError("there is no model 'x'", hint="there is y"), app(tmp_path))
    captured = capsys.readouterr()
    assert code == 4
    assert captured.out == ""
    assert captured.err == "error: there is no model 'x'\nhint: there is y\n"


def test_a_configuration_error_names_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(errors.ConfigError("unknown key", file="/etc/b.yaml", line=7), app(tmp_path))
    assert capsys.readouterr().err == "error: /etc/b.yaml:7: unknown key\n"


def test_with_json_an_error_is_one_document_beside_its_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(errors.WrongKeyError("wrong key", hint="look again"), app(tmp_path, json=True))
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "error": {"message": "wrong key", "hint": "look again", "kind": "key", "exit_code": 6}
    }
    assert captured.err.startswith("error: wrong key\n")


def test_an_interruption_says_that_what_was_stored_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(KeyboardInterrupt(), app(tmp_path)) == 130
    assert "whatever was stored is kept" in capsys.readouterr().err


def test_an_os_error_names_the_file_and_the_mend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), b"/mnt/x")
    assert report(error, app(tmp_path)) == 1
    assert capsys.readouterr().err == (
        "error: /mnt/x: no space left on device\n"
        "hint: free some space there; what was stored is kept\n"
    )


def test_a_bug_is_one_sentence_and_its_traceback_a_private_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    try:
        _raise_a_bug()
    except ZeroDivisionError as error:
        assert report(error, app(tmp_path, state_dir=state)) == 1
    [kept] = state.iterdir()
    shown = capsys.readouterr().err
    assert shown.splitlines() == [
        "error: this is a bug in backupd: ZeroDivisionError: by zero",
        f"hint: please report it with what {kept} says",
    ]
    assert "_raise_a_bug" in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_bug_shows_its_traceback_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asking = App(environment={"HOME": str(tmp_path), "BACKUPD_DEBUG": "1"})
    try:
        _raise_a_bug()
    except ZeroDivisionError as error:
        report(error, asking)
    assert "_raise_a_bug" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def _raise_a_bug() -> None:
    raise ZeroDivisionError("by zero")


def test_a_message_cannot_act_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(errors.DamagedError("bad name \x1b]0;x\x07"), app(tmp_path))
    assert "\x1b" not in capsys.readouterr().err


def test_a_closed_pipe_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert report(BrokenPipeError(), app(tmp_path)) == EXIT_BROKEN_PIPE
    assert capfd.readouterr().err == ""
