"""No module of the program becomes a drawer into which everything is put."""

from __future__ import annotations

from pathlib import Path

import backupd

MAX_LINES = 400


def test_no_module_has_more_lines_than_one_reads_at_a_sitting() -> None:
    package = Path(backupd.__file__).parent
    lines = {
        str(module.relative_to(package)): len(module.read_bytes().splitlines())
        for module in package.rglob("*.py")
    }

    assert "repository/index.py" in lines
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}
