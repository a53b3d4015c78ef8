"""One verb on several targets or models: where one fails the others still have their turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from backupd import errors
from backupd.cli import output
from backupd.cli.app import App
from backupd.cli.errors import error_document, explain
from backupd.cli.progress import shown_progress

if TYPE_CHECKING:
    from backupd.operations.progress import Progress

_Report = TypeVar("_Report")


def one_by_one(
    app: App,
    names: Sequence[str],
    run: Callable[[str, Progress], _Report],
    tell: Callable[[_Report], tuple[dict[str, Any], int]],
    *,
    kind: str = "target",
) -> tuple[list[dict[str, Any]], list[int]]:
    """The answer for `--json` and the exit code of each, in order.

    `tell` says what a report holds once its progress bar is gone, and gives both. Raises what
    `run` raises where it is `StoppedError`, or where there is one alone. `kind` is what a name is
    called in the answer of one that failed.
    """
    answers: list[dict[str, Any]] = []
    codes: list[int] = []
    for name in names:
        try:
            with shown_progress(app) as progress:
                report = run(name, progress)
        except errors.StoppedError:
            raise
        except errors.BackupdError as error:
            if len(names) == 1:
                raise
            output.warn(app, f"{name}: {error}")
            answers.append({kind: name, **error_document(explain(error))})
            codes.append(error.exit_code)
            continue
        answer, code = tell(report)
        answers.append(answer)
        codes.append(code)
    return answers, codes
