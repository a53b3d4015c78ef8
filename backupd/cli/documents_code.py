"""The JSON form of what is told of a snapshot's code; see `documents`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backupd.operations.diff_code import CodeDiff
    from backupd.operations.restore_code import CodeReport

Document = dict[str, Any]


def code_report(report: CodeReport, place: str) -> Document:
    """What became of a snapshot's code."""
    return {
        "to": _word(place),
        "source": report.source or None,
        "restored_files": report.restored_files,
        "failed": [
            {"path": _word(path), "reason": reason} for path, reason in report.failed.items()
        ],
        "notes": list(report.notes),
    }


def source_changes(diff: CodeDiff, limit: int | None) -> Document:
    """How the code that two snapshots keep differs."""
    return {
        "files": [
            {"change": change.change, "path": change.path, "diff": _word(change.patch) or None}
            for change in diff.files[:limit]
        ],
        "packages": [
            {"name": _word(one.name), "old": one.old or None, "new": one.new or None}
            for one in diff.packages[:limit]
        ],
        "note": diff.note or None,
    }


def code_facts(code: Mapping[str, Any]) -> Document:
    """What is known of a snapshot's code, as docs/format.md has it."""
    return {key: _plain(value) for key, value in code.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_word(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _word(value) if isinstance(value, str) else value


def _word(text: str) -> str:
    """Text that JSON can carry."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
