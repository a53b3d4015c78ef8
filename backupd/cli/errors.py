"""The one place where an error becomes words and an exit code.

An error that a user, a disk or a network can cause is one sentence and a hint. Anything else is
a bug of backupd: one sentence too, and the traceback goes to a file (or, with `BACKUPD_DEBUG=1`,
to standard error). With `--json` the error is also the document on standard output:
`{"error": {"message": ..., "hint": ..., "kind": ..., "exit_code": ...}}`.
"""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import click

from backupd import errors
from backupd.cli import output
from backupd.cli.app import App
from backupd.cli.formatting import printable

# What a shell reports of a program that the end of its pipe ended (128 + SIGPIPE).
EXIT_BROKEN_PIPE = 141

_KINDS = {
    errors.EXIT_USAGE: "usage",
    errors.EXIT_PARTIAL: "partial",
    errors.EXIT_NOT_FOUND: "not_found",
    errors.EXIT_TARGET: "target",
    errors.EXIT_KEY: "key",
    errors.EXIT_DAMAGED: "damaged",
    errors.EXIT_INTERRUPTED: "interrupted",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """An error in words; `traceback` is kept only for a bug."""

    message: str
    hint: str
    exit_code: int
    traceback: str = ""

    @property
    def kind(self) -> str:
        """The error's name in JSON."""
        if self.traceback:
            return "bug"
        return _KINDS.get(self.exit_code, "failed")


def explain(error: BaseException) -> Explanation:
    """The words for anything that a command raised."""
    match error:
        case errors.BackupdError():
            return Explanation(str(error), error.hint, error.exit_code)
        case click.UsageError():
            where = error.ctx.command_path if error.ctx else "backupd"
            return Explanation(
                _sentence(error.format_message()),
                f"see `{where} --help`",
                errors.EXIT_USAGE,
            )
        case click.ClickException():
            return Explanation(_sentence(error.format_message()), "", error.exit_code)
        case KeyboardInterrupt() | click.Abort() | EOFError():
            return Explanation(
                "interrupted",
                "whatever was stored is kept; the same command goes on from there",
                errors.EXIT_INTERRUPTED,
            )
        case MemoryError():
            return Explanation(
                "there is not enough memory",
                "lower `limits.threads` in the configuration, or free some memory",
                errors.EXIT_FAILED,
            )
        case OSError():
            return Explanation(_os_sentence(error), _os_hint(error), errors.EXIT_FAILED)
    return Explanation(
        f"this is a bug in backupd: {type(error).__name__}: {error}",
        "",
        errors.EXIT_FAILED,
        "".join(traceback.format_exception(error)),
    )


def report(error: BaseException, app: App) -> int:
    """Tells the user, and returns the exit code; never raises."""
    if isinstance(error, BrokenPipeError):
        return _abandon_output()
    explanation = explain(error)
    hint = explanation.hint
    if explanation.traceback:
        hint = _keep_traceback(explanation.traceback, app)
    try:
        prefix = click.style("error:", fg="red", bold=True)
        color = output.wants_color(app.environment)
        click.echo(f"{prefix} {_shown(explanation.message)}", err=True, color=color)
        if hint:
            click.echo(f"{click.style('hint:', bold=True)} {_shown(hint)}", err=True, color=color)
        if app.json:
            output.document(app, error_document(explanation, hint))
        sys.stdout.flush()
    except (OSError, ValueError):
        # What cannot be written now must not fail again when the interpreter ends.
        _abandon_output()
    return explanation.exit_code


def error_document(explanation: Explanation, hint: str = "") -> dict[str, dict[str, object]]:
    """The JSON form of an error."""
    return {
        "error": {
            "message": explanation.message,
            "hint": hint or explanation.hint or None,
            "kind": explanation.kind,
            "exit_code": explanation.exit_code,
        }
    }


def _shown(text: str) -> str:
    """Several lines stay several lines; nothing else that a terminal would act on passes."""
    return "\n".join(printable(line) for line in text.splitlines())


def _sentence(text: str) -> str:
    """click's sentences in this project's form: no capital, no full stop at the end."""
    text = text.strip().rstrip(".")
    return text[:1].lower() + text[1:]


def _os_sentence(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    reason = reason[:1].lower() + reason[1:]
    if error.filename is None:
        return reason
    name = error.filename
    return f"{os.fsdecode(name) if isinstance(name, bytes) else name}: {reason}"


def _os_hint(error: OSError) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "free some space there; what was stored is kept"
        case errno.EACCES | errno.EPERM:
            return "run the command as the user who owns it, or change its permissions"
        case errno.EMFILE | errno.ENFILE:
            return "raise the limit of open files (`ulimit -n`)"
    return ""


def _keep_traceback(text: str, app: App) -> str:
    """Writes a bug's traceback where a report can take it from; returns the hint that says so."""
    if app.environment.get("BACKUPD_DEBUG"):
        click.echo(text, err=True)
        return "please report it with the lines above"
    for folder in (app.state_dir, app.home("XDG_STATE_HOME", ".local/state") / "backupd"):
        if folder is None:
            continue
        path = folder / f"bug-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.txt"
        try:
            _write_private(path, text)
        except OSError:
            continue
        return f"please report it with what {path} says"
    return "please report it; BACKUPD_DEBUG=1 shows where it happened"


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)


def _abandon_output() -> int:
    """Points standard output at nothing, so that the interpreter's last flush cannot fail."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
    except (OSError, ValueError, AttributeError):
        pass
    return EXIT_BROKEN_PIPE
