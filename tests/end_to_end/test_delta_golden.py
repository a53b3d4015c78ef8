"""The repository of the codec that was stored once is read by every later version, and without."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from backupd.operations.check import check
from backupd.operations.installation import Installation, open_standalone
from backupd.operations.resolve import resolve
from backupd.operations.restore import RestoreRequest, restore
from tests.golden.format1.manifest import manifest_of
from tests.support.checkpoints import records_of

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "codec1"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
RESCUE = ROOT / "docs" / "rescue.py"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    with tarfile.open(GOLDEN / "repository.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path / "repo"


def opened(repository: Path) -> Installation:
    return open_standalone(str(repository), environment={})


def without_root(manifest: dict[str, object]) -> dict[str, object]:
    """The folder that one restores into keeps its own mode and times."""
    return {path: entry for path, entry in manifest.items() if path != "."}


@pytest.mark.parametrize("version", ["1", "2"])
def test_planes_and_deltas_of_the_first_codec_are_read(
    repository: Path, version: str, tmp_path: Path
) -> None:
    with opened(repository) as installation:
        snapshot = resolve(installation, f"golden:llama@v{version}")
        report = restore(installation, snapshot, RestoreRequest(to=tmp_path / "out"))
    assert not report.failed
    assert without_root(manifest_of(tmp_path / "out")) == without_root(EXPECTED[version])


@pytest.mark.parametrize("version", ["1", "2"])
def test_they_are_read_without_backupd(repository: Path, version: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-P", RESCUE, repository, "restore", "golden", "llama", version, out],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
        timeout=180,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert without_root(manifest_of(out)) == without_root(EXPECTED[version])


def test_it_holds_every_codec(repository: Path) -> None:
    with opened(repository) as installation:
        name = next(iter(installation.settings.targets))
        found = records_of(installation.repository(name))
        assert check(installation, name, read_data_percent=100).findings == ()
    assert {record.codec for record in found} == {0, 1, 2, 3}
    assert len([record for record in found if record.codec == 3]) >= 5
