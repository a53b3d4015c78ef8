"""`doctor`: is the machine fit for what the configuration asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from backupd import errors
from backupd.cli import output
from backupd.cli.app import App
from backupd.cli.command import command
from backupd.cli.formatting import count, printable
from backupd.cli.opening import chosen_targets, config_path, opened
from backupd.cli.parameters import target_option

if TYPE_CHECKING:
    from backupd.daemon.doctor import Finding

_MARKS = {"good": ("ok", "green"), "note": ("note", "yellow"), "bad": ("BAD", "red")}


@command(
    "doctor",
    exits=(errors.EXIT_FAILED, errors.EXIT_TARGET, errors.EXIT_KEY, errors.EXIT_DAMAGED),
    examples=(
        ("backupd doctor", "before the first snapshot, and when something is odd"),
        ("backupd doctor --target s3", "the store alone"),
        ("backupd doctor --json | jq '.findings[] | select(.verdict != \"good\")'", "for a script"),
    ),
)
@target_option("Probe only this target; give it again for one more.", multiple=True)
@click.pass_obj
def doctor_command(app: App, target: tuple[str, ...]) -> int:
    """Examine the machine: configuration, key, targets, folders, inotify, room, clocks.

    Each target is probed with small objects that are removed again: whether one of racing
    writers alone creates an object, whether parts are read right, checksums verified and
    listings up to date, whether versions and Object Lock are there, and how far its clock is
    from this box's. What was seen is kept in `state_dir` and, for a bucket, beside the
    repository, and is obeyed from then on.

    The exit code is 0 with notes alone; else that of what is bad, or 1 where that is several
    kinds of things.
    """
    from backupd.config.load import check_config
    from backupd.daemon.doctor import Finding, Verdict, examine, exit_code

    path = config_path(app)
    settings, problems = check_config(path, app.environment)
    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        _say(app, finding)

    if settings is None:
        for problem in problems:
            place = f"{problem.file}:{problem.line}: {problem.message}"
            code = errors.EXIT_USAGE
            tell(Finding("configuration", "", Verdict.BAD, place, problem.hint, code))
    else:
        with opened(app) as installation:
            names = installation.nearest_first(chosen_targets(installation, target))
            for finding in examine(installation, names):
                tell(finding)
    bad = [finding for finding in findings if finding.verdict is Verdict.BAD]
    code = exit_code(findings)
    output.document(
        app, {"healthy": not bad, "findings": [_document(finding) for finding in findings]}
    )
    notes = sum(finding.verdict is Verdict.NOTE for finding in findings)
    if bad:
        output.say(app, f"\n{count(len(bad), 'thing')} to mend, {count(notes, 'note')}")
    else:
        output.say(app, f"\nNothing to mend, {count(notes, 'note')}")
    return code


def _say(app: App, finding: Finding) -> None:
    word, color = _MARKS[finding.verdict]
    subject = f"{finding.check} {finding.subject}".strip()
    line = f"{click.style(word.ljust(5), fg=color)} {subject}: {printable(finding.message)}"
    if finding.verdict == "bad":
        output.result(app, line)
    else:
        output.say(app, line)
    if finding.hint:
        output.say(app, f"      {printable(finding.hint)}")


def _document(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "subject": finding.subject or None,
        "verdict": str(finding.verdict),
        "message": finding.message,
        "hint": finding.hint or None,
        "exit_code": finding.exit_code,
    }
