"""A name that the configuration's templates give is as good as MODEL@vN in every command."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pytest

from tests.rigs.command_line import CommandLine

DAY = datetime.now().astimezone()


@pytest.fixture
def backupd(tmp_path: Path) -> CommandLine:
    backupd = CommandLine(tmp_path / "home", in_process=True)
    backupd.home.mkdir()
    model = tmp_path / "llama"
    model.mkdir()
    (model / "weights.bin").write_bytes(os.urandom(2000))
    backupd.ok("quickstart", model, "--once")
    (model / "weights.bin").write_bytes(os.urandom(2000))
    backupd.ok("snapshot", "--label", "stage=a b")
    return backupd


def test_every_command_takes_a_rendered_name(backupd: CommandLine, tmp_path: Path) -> None:
    # Each of its own day, as midnight may come between them.
    first, name = (
        backupd.ok("show", f"llama@v{version}", "--json").document["snapshot"]["rendered_name"]
        for version in (1, 2)
    )
    assert first.endswith("_v1")
    assert name in (f"llama_{DAY:%Y%m%d}_v2", f"llama_{datetime.now():%Y%m%d}_v2")
    assert name in backupd.ok("show", name).out
    day = f"{name[6:10]}-{name[10:12]}-{name[12:14]}"
    path = f"none/{day}/llama/{name}"
    assert backupd.ok("show", path, "--json").document["snapshot"]["name"] == "llama@v2"
    assert "weights.bin" in backupd.ok("files", name).out
    assert "weights.bin" in backupd.ok("diff", first, name).out
    backupd.ok("restore", first, "--to", tmp_path / "out")
    assert (tmp_path / "out" / "weights.bin").exists()
    backupd.ok("switch", "llama", first)
    backupd.ok("switch", "llama", name)
    assert backupd.ok("log", "llama", "--json").document["versions"][0]["here"]
    backupd.ok("label", name, "release=1.0")
    assert "release=1.0" in backupd.ok("show", "llama@v2").out
    backupd.ok("forget", first)
    assert [s["version"] for s in backupd.ok("list", "--json").document["snapshots"]] == [2]


def test_a_name_of_another_day_is_not_taken_for_the_version(backupd: CommandLine) -> None:
    answer = backupd("forget", "llama_20010101_v1")
    assert answer.code == 4
    assert "there is no snapshot 'llama_20010101_v1'" in answer.err
    assert "llama@v1 is llama_2" in answer.err
    assert len(backupd.ok("list", "--json").document["snapshots"]) == 2


def test_a_name_can_tell_step_and_label(backupd: CommandLine) -> None:
    text = backupd.config.read_text()
    lines = [line for line in text.splitlines() if not line.startswith("naming:")]
    lines.append('naming: "{model}+v{version}+{step}+{label.stage}"')
    backupd.config.write_text("\n".join(lines) + "\n")
    name = "llama+v2+none+a%20b"
    assert backupd.ok("show", "llama@v2", "--json").document["snapshot"]["rendered_name"] == name
    assert backupd.ok("show", name, "--json").document["snapshot"]["version"] == 2
    assert backupd("show", "llama+v1+none+a%20b").code == 4
