"""A repository that keeps code, stored once, is read by every later version and by rescue.py."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from backupd.operations.check import check
from backupd.operations.installation import open_standalone
from backupd.operations.resolve import resolve
from backupd.operations.restore_code import restore_code
from tests.golden.code1.make import GOLDEN, tree_of

EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
RESCUE = Path(__file__).parents[2] / "docs" / "rescue.py"


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    with tarfile.open(GOLDEN / "golden.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path


def test_the_code_and_the_findings_come_back(stored: Path) -> None:
    key = {"BACKUPD_KEY_FILE": str(stored / "key")}
    with open_standalone(str(stored / "repo"), environment=key) as installation:
        snapshot = resolve(installation, "box:m@v1")
        info = snapshot.info
        report = restore_code(installation, snapshot, stored / "out")
        (target,) = installation.settings.targets
        assert check(installation, target, read_data_percent=100).clean
    assert not report.failed
    assert tree_of(stored / "out" / "source") == EXPECTED["source"]
    assert info.code["commit"] == EXPECTED["commit"]
    assert info.code["side_commit"] == EXPECTED["side_commit"]
    assert [[f.path, f.level, f.what] for f in info.findings] == EXPECTED["findings"]
    assert list(info.skipped) == EXPECTED["skipped"]


def test_a_reader_made_from_the_format_alone_gives_the_code(stored: Path) -> None:
    done = subprocess.run(
        [sys.executable, RESCUE, stored / "repo", "code", "box", "m", "1", stored / "out"],
        env={"BACKUPD_KEY_FILE": str(stored / "key")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert tree_of(stored / "out" / "source") == EXPECTED["source"]
