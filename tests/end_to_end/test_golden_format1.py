"""The repositories of format 1 that were stored once are read by every later version."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from backupd.operations.catalog import list_snapshots
from backupd.operations.check import check
from backupd.operations.installation import Installation, open_standalone
from backupd.operations.resolve import resolve
from backupd.operations.restore import RestoreRequest, restore
from backupd.repository.keys import KeyInfo
from backupd.repository.records import parse_table
from tests.golden.format1.make import PASSPHRASE
from tests.golden.format1.manifest import manifest_of

GOLDEN = Path(__file__).parents[1] / "golden" / "format1"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
KEY_FILE = {"BACKUPD_KEY_FILE": str(GOLDEN / "key")}


@pytest.fixture(params=["encrypted", "plain"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def repository(name: str, tmp_path: Path) -> Path:
    with tarfile.open(GOLDEN / f"{name}.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path / "repo"


def opened(repository: Path, environment: dict[str, str] = KEY_FILE) -> Installation:
    return open_standalone(str(repository), environment=environment)


def restored(installation: Installation, version: str, out: Path) -> dict[str, object]:
    snapshot = resolve(installation, f"golden:llama@v{version}")
    report = restore(installation, snapshot, RestoreRequest(to=out))
    assert not report.failed
    return manifest_of(out)  # type: ignore[return-value]


def without_root(manifest: dict[str, object]) -> dict[str, object]:
    """The folder that one restores into keeps its own mode and times."""
    return {path: entry for path, entry in manifest.items() if path != "."}


@pytest.mark.parametrize("version", ["1", "2"])
def test_every_stored_snapshot_comes_back_as_it_was(
    repository: Path, name: str, version: str, tmp_path: Path
) -> None:
    with opened(repository) as installation:
        found = restored(installation, version, tmp_path / "out")
    assert without_root(found) == without_root(EXPECTED[name][version])


def test_it_comes_back_with_no_index_at_all(repository: Path, name: str, tmp_path: Path) -> None:
    for path in (repository / "index").iterdir():
        path.unlink()
    with opened(repository) as installation:
        found = restored(installation, "2", tmp_path / "out")
    assert without_root(found) == without_root(EXPECTED[name]["2"])


def test_a_passphrase_opens_what_the_key_file_opens(tmp_path: Path) -> None:
    with tarfile.open(GOLDEN / "encrypted.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    with opened(tmp_path / "repo", {"BACKUPD_PASSPHRASE": PASSPHRASE}) as installation:
        assert [info.version for info in list_snapshots(installation)] == [1, 2]
        target = installation.repository(next(iter(installation.settings.targets)))
        described: list[KeyInfo] = [target.describe_key(key) for key in target.key_ids()]
    assert sorted(key.kind for key in described) == ["generated", "generated", "passphrase"]


def test_labels_given_later_and_forgotten_versions_are_known(repository: Path) -> None:
    with opened(repository) as installation:
        target = installation.repository(next(iter(installation.settings.targets)))
        listing = target.list_snapshots()
        marked = target.read_tombstones(lambda message: None)
    first, second = listing.snapshots
    assert first.record.labels == {"kind": "golden"}
    assert second.record.labels == {"release": "1.0"}
    assert second.record.metrics == {"loss": 0.25} and second.record.parent == 1
    assert list(listing.highest.values()) == [4]
    assert marked and all(stone.marked == 4_000_000_000.0 and stone.packs for stone in marked)


def test_check_finds_nothing_wrong_with_it(repository: Path) -> None:
    with opened(repository) as installation:
        report = check(
            installation, next(iter(installation.settings.targets)), read_data_percent=100
        )
    assert report.findings == ()
    assert report.snapshots == 2


def test_it_holds_every_way_to_store_a_file(repository: Path, name: str) -> None:
    with opened(repository) as installation:
        target = installation.repository(next(iter(installation.settings.targets)))
        index, _ = target.read_index_objects()
        records = [
            record
            for pack in index.tables()
            for record in parse_table(memoryview(pack.table), pack.size_bytes)
        ]
    assert {0, 1, 2, 3} == {record.codec for record in records}
    assert {0, 1, 2, 3} == {record.kind for record in records}
    files = [entry for entry in EXPECTED[name]["2"].values() if "blake3" in entry]
    assert any(entry["sparse"] for entry in files)
    assert any(entry["xattrs"] for entry in files)
    linked = EXPECTED[name]["2"]["weights/linked.bin"]["same_as"]
    assert linked == "small.bin"
