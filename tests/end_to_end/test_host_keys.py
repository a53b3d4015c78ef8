"""Each host has a key of its own, which another can take away."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.rigs.command_line import CommandLine


@pytest.fixture
def boxes(tmp_path: Path) -> tuple[CommandLine, CommandLine]:
    """Two boxes with one repository between them; the second has no key yet."""
    made = []
    for name in ("box1", "box2"):
        home = tmp_path / name
        (home / "model").mkdir(parents=True)
        (home / "model/weights.bin").write_bytes(name.encode() * 1000)
        cli = CommandLine(home, in_process=True)
        cli.config.parent.mkdir(parents=True)
        cli.config.write_text(
            f"host: {name}\nstate_dir: {home}/state\nkey: {{file: {home}/key}}\n"
            f"targets: {{nas: {{type: nas, path: {tmp_path}/shared, require_mount: false}}}}\n"
            "policies: {all: {keep_last: 9}}\n"
            f"models: {{m: {{path: {home}/model, targets: {{nas: all}}}}}}\n"
        )
        made.append(cli)
    made[0].ok("init")
    return made[0], made[1]


def test_a_host_has_a_key_of_its_own_until_it_is_removed(
    boxes: tuple[CommandLine, CommandLine], tmp_path: Path
) -> None:
    first, second = boxes
    key = second.home / "key"
    answer = first.ok("--json", "key", "add", "--host", "box2", "--to", key)
    assert answer.document["label"] == "box2" and answer.document["key"] is None
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_text().strip() not in answer.out + answer.err
    second.ok("snapshot", "m")
    assert "box2" in first.ok("list", "--host", "box2").out
    labels = [one["label"] for one in first.ok("--json", "key", "list").document["keys"]]
    assert sorted(labels) == ["box2", "configuration", "recovery"]
    refused = second("key", "remove", "box2")
    assert refused.code == 2 and "the one the configuration uses" in refused.err
    removed = first.ok("key", "remove", "box2")
    assert "may have kept the master key" in removed.out
    shut_out = second("list")
    assert shut_out.code == 6, shut_out
    # What it stored is still there, for those who are left.
    first.ok("restore", "box2:m@v1", "--to", tmp_path / "out")
    assert (tmp_path / "out/weights.bin").read_bytes() == b"box2" * 1000


def test_a_host_has_one_key_and_what_makes_no_sense_is_refused(
    boxes: tuple[CommandLine, CommandLine], tmp_path: Path
) -> None:
    first, _ = boxes
    printed = first.ok("key", "add", "--host", "box3")
    assert printed.out.strip().splitlines()[-1].count("-") == 12
    again = first("key", "add", "--host", "box3")
    assert again.code == 2 and "a key of host 'box3' already" in again.err
    taken = tmp_path / "taken"
    taken.write_text("something else")
    for arguments in (
        ("--host", "box4", "--recovery"),
        ("--host", "box4", "--label", "x"),
        ("--label", "x", "--to", tmp_path / "new"),
        ("--host", "box4", "--to", taken),
    ):
        assert first("key", "add", *arguments).code == 2, arguments
    assert taken.read_text() == "something else"
    assert "box4" not in first.ok("key", "list").out


def test_a_removal_that_did_not_reach_every_target_is_told(
    boxes: tuple[CommandLine, CommandLine], tmp_path: Path
) -> None:
    first, _ = boxes
    disk = f"targets: {{disk: {{type: local, path: {tmp_path}/disk}}, nas:"
    text = first.config.read_text()
    first.config.write_text(text.replace("targets: {nas:", disk, 1))
    first.ok("init")
    first.ok("key", "add", "--host", "box2")
    (tmp_path / "shared").rename(tmp_path / "away")
    answer = first("key", "remove", "box2")
    assert answer.code == 3
    assert "removed from disk" in answer.err and "nas" in answer.err
    (tmp_path / "away").rename(tmp_path / "shared")
    first.ok("key", "remove", "box2")
    assert "box2" not in first.ok("key", "list").out
