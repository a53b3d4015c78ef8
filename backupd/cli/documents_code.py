"""The JSON form of what became of a snapshot's code; see `documents`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backupd.cli.documents import Document, text

if TYPE_CHECKING:
    from backupd.operations.restore_code import CodeReport


def code_report(report: CodeReport, place: str) -> Document:
    """What became of a snapshot's code."""
    return {
        "to": text(place),
        "source": report.source or None,
        "restored_files": report.restored_files,
        "failed": [
            {"path": text(path), "reason": reason} for path, reason in report.failed.items()
        ],
        "notes": list(report.notes),
    }
