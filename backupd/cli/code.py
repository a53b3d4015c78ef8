"""What is known of a snapshot's code and of its dangers, in lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backupd.cli import output
from backupd.cli.app import App
from backupd.cli.formatting import Column, count, printable

if TYPE_CHECKING:
    from backupd.operations.diff_code import CodeDiff
    from backupd.operations.reports import SnapshotInfo
    from backupd.operations.restore_code import CodeReport
    from backupd.repository.danger import Danger

_SHORT = 9
_SHOWN = 20
_MOST_LINES = 400
_PACKAGE_COLUMNS = (
    Column("PACKAGE"),
    Column("FROM", shrink=10, wrap=True),
    Column("TO", shrink=10, wrap=True),
)


def short_commit(code: Mapping[str, Any]) -> str:
    """`46ed106ab+` (the code differed from it), `r41`, or nothing."""
    mark = "+" if code.get("dirty") else ""
    if code.get("commit"):
        return f"{printable(str(code['commit']))[:_SHORT]}{mark}"
    return f"r{code['revision']}{mark}" if code.get("revision") else ""


def code_facts(info: SnapshotInfo) -> Iterator[tuple[str, str]]:
    """Names and values for `show`."""
    code = info.code
    if not code:
        return
    told = []
    if code.get("commit"):
        on = f" on {code['branch']}" if code.get("branch") else ", no branch"
        told.append(f"git commit {str(code['commit'])[:12]}{on}")
    elif code.get("system") == "git":
        told.append("git, without a commit yet")
    elif code.get("revision"):
        told.append(f"Subversion revision {code['revision']}")
    if code.get("state"):
        told.append(f"in the middle of a {code['state']}")
    if code.get("dirty"):
        told.append("with changes")
    yield "code", printable(", ".join([*told, str(code.get("path", ""))]))
    if code.get("remote") or code.get("url"):
        yield "remote", printable(str(code.get("remote") or code.get("url")))
    if code.get("side_commit"):
        yield "committed", printable(f"{str(code['side_commit'])[:12]} on {code['side_branch']}")
    if code.get("kept"):
        yield "kept", printable(", ".join(map(str, code["kept"])))
    environment = code.get("environment")
    if isinstance(environment, Mapping):
        from backupd.capture.provenance.environment import shown_environment

        yield "ran on", printable(shown_environment(environment))


def say_code_notes(app: App, info: SnapshotInfo) -> None:
    """What could not be told or kept of the code."""
    for note in info.code.get("notes", ()):
        output.note(app, f"code: {printable(str(note))}")


def say_findings(app: App, findings: Sequence[Danger]) -> None:
    """Each file that may run code when it is loaded, the dangerous ones as warnings."""
    dangerous = [found for found in findings if found.level == "dangerous"]
    limit = len(dangerous) if app.verbose else _SHOWN
    for found in dangerous[:limit]:
        output.warn(app, f"{printable(found.path)} {printable(found.what)}")
    if len(dangerous) > limit:
        output.warn(app, f"and {len(dangerous) - limit:,} more dangerous files")
    others = [found for found in findings if found.level != "dangerous"]
    for found in others[: len(others) if app.verbose else 3]:
        output.note(app, f"{printable(found.path)} {printable(found.what)}")
    if len(others) > 3 and not app.verbose:
        levels = Counter(found.level for found in others[3:])
        more = ", ".join(f"{number:,} {level}" for level, number in sorted(levels.items()))
        output.note(app, f"and {count(len(others) - 3, 'more file')} ({more}), which -v shows")


def say_code_report(app: App, report: CodeReport, place: str) -> None:
    """What became of the code of a restored snapshot."""
    if report.source:
        output.say(app, f"code in {printable(place)}: source from {printable(report.source)}")
    else:
        output.say(app, f"code in {printable(place)}, without its source")
    for note in report.notes:
        output.note(app, printable(note))
    for path, reason in report.failed.items():
        output.warn(app, f"not given: {printable(path)}: {printable(reason)}")


def say_source(app: App, diff: CodeDiff, most: int | None) -> None:
    """How the code differs: packages by version, files as a unified diff."""
    if diff.note:
        output.note(app, f"code: {diff.note}")
    if diff.packages:
        output.result(app, f"\n{count(len(diff.packages), 'package')} of the code's environment")
        rows = [
            (printable(one.name), printable(one.old), printable(one.new))
            for one in diff.packages[:most]
        ]
        output.table(app, _PACKAGE_COLUMNS, rows)
        _say_more(app, len(diff.packages), most, "package")
    if diff.files:
        output.result(app, f"\n{count(len(diff.files), 'file')} of the code")
    lines = 0
    for number, change in enumerate(diff.files):
        if most is not None and number and (number >= most or lines > _MOST_LINES):
            _say_more(app, len(diff.files), number, "file")
            break
        if not change.patch:
            output.result(app, f"{change.change} {printable(change.path)}")
        for line in change.patch.splitlines():
            output.result(app, "\t".join(map(printable, line.split("\t"))))
            lines += 1


def _say_more(app: App, total: int, most: int | None, noun: str) -> None:
    if most is not None and total > most:
        output.say(app, f"and {count(total - most, f'more {noun}')}, which -v shows")
