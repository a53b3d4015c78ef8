"""`backupd repair`, `drill` and a healing check as a person meets them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import yaml

from backupd.config.load import load_config
from backupd.errors import EXIT_DAMAGED, EXIT_DONE, EXIT_PARTIAL
from backupd.operations.installation import open_installation
from backupd.operations.progress import NoProgress
from backupd.operations.repair import check_and_heal
from tests.rigs.command_line import CommandLine


@pytest.fixture
def line(tmp_path: Path) -> CommandLine:
    """Two local targets with two snapshots each."""
    line = CommandLine(tmp_path / "home", in_process=True)
    config = line.config
    config.parent.mkdir(parents=True)
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.bin").write_bytes(bytes(range(256)) * 4000)
    (model / "notes.txt").write_text("a run")
    config.write_text(
        yaml.safe_dump(
            {
                "state_dir": str(tmp_path / "state"),
                "key": {"file": str(tmp_path / "key")},
                "targets": {
                    name: {"type": "local", "path": str(tmp_path / name)}
                    for name in ("disk", "copy")
                },
                "policies": {"all": {"keep_last": 9}},
                "models": {
                    "m": {"path": str(model), "targets": {"disk": "all", "copy": "all"}},
                },
            }
        )
    )
    line.ok("init")
    line.ok("snapshot", "m")
    (model / "notes.txt").write_text("a run, and another")
    line.ok("snapshot", "m")
    return line


def packs(line: CommandLine, target: str = "disk") -> list[Path]:
    return sorted((line.home.parent / target).glob("packs/*/*"))


def spoil(path: Path) -> None:
    stored = bytearray(path.read_bytes())
    stored[40] ^= 8
    path.write_bytes(stored)


def test_repair_tells_what_it_would_do_does_it_and_finds_nothing_after(line: CommandLine) -> None:
    for path in packs(line):
        spoil(path)
    assert line("check", "--read-data", "--target", "disk").code == EXIT_DAMAGED
    planned = line.ok("--json", "repair", "--dry-run").document
    assert planned["dry_run"]
    assert {target["target"]: bool(target["mended"]) for target in planned["targets"]} == {
        "disk": True,
        "copy": False,
    }
    assert line("check", "--read-data", "--target", "disk").code == EXIT_DAMAGED
    told = line.ok("repair", "--target", "disk").out
    assert "from copy" in told
    assert "everything is there again" in told
    assert "nothing is damaged" in line.ok("repair").out
    line.ok("check", "--read-data")


def test_what_cannot_be_mended_is_named_and_the_exit_code_says_in_part(line: CommandLine) -> None:
    for target in ("disk", "copy"):
        for path in packs(line, target):
            spoil(path)
    (line.home.parent / "model" / "weights.bin").unlink()
    answer = line("repair", "--target", "disk")
    assert answer.code == EXIT_PARTIAL
    assert "lost:" in answer.out
    assert "weights.bin" in answer.out
    document = line("--json", "repair", "--target", "disk").document
    (report,) = document["targets"]
    assert any("weights.bin" in finding["files"] for finding in report["lost"])


def test_a_repair_takes_nothing_from_a_target_that_was_not_named(line: CommandLine) -> None:
    for path in packs(line):
        spoil(path)
    answer = line("repair", "--target", "disk", "--from", "nowhere")
    assert answer.code not in (EXIT_DONE, EXIT_PARTIAL)
    assert "there is no target" in answer.err
    line.ok("repair", "--target", "disk", "--from", "copy")


def test_a_drill_says_what_it_restored_and_fails_when_something_is_wrong(line: CommandLine) -> None:
    said = line.ok("drill", "m@latest").out
    assert "m@v2 from" in said
    assert "all as it was stored" in said
    document = line.ok("--json", "drill", "m@v1", "--target", "copy").document
    assert document["clean"]
    assert document["target"] == "copy"
    for path in packs(line):
        spoil(path)
    answer = line("drill", "m@v2", "--target", "disk")
    assert answer.code == EXIT_DAMAGED


def test_a_healing_check_mends_what_a_part_of_the_data_showed(line: CommandLine) -> None:
    for path in packs(line):
        spoil(path)
    settings = load_config(line.config, line.environment())
    with open_installation(settings, environment=line.environment()) as installation:
        stop = threading.Event()
        for expected in (True, False):
            found, healed = check_and_heal(
                installation, "disk", read_data_percent=100, progress=NoProgress(), stop=stop
            )
            assert found is not None
            assert found.clean is not expected
            assert (healed is not None) is expected
            if healed is not None:
                assert not healed.lost
    (line.home.parent / "disk" / "repository.json").unlink()
    with open_installation(settings, environment=line.environment()) as installation:
        with pytest.raises(Exception, match="repository"):
            installation.repository("disk")
        found, healed = check_and_heal(
            installation, "disk", read_data_percent=100, progress=NoProgress(), stop=stop
        )
        assert healed is not None
        assert not healed.lost
    line.ok("check", "--read-data")
