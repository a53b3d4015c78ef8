"""`init --from`: a box in place of the one that is gone, from nothing but a target and a key."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.rigs.command_line import CommandLine

CONFIG = """\
{host}# the disk of the lab; its password is hunter2
state_dir: ~/state
key: {{file: ~/.config/backupd/key}}
targets:
  disk: {{type: local, path: ~/disk}}
  share: {{type: local, path: {share}}}
policies: {{few: {{keep_last: 5}}}}
models: {{llama: {{path: ~/llama, targets: {{disk: few, share: few}}}}}}
notify: {{urls: ["json://me:hunter2@example.org"]}}
"""


@pytest.fixture
def share(tmp_path: Path) -> Path:
    return tmp_path / "share"


def box(tmp_path: Path, name: str) -> CommandLine:
    home = tmp_path / name
    (home / "llama").mkdir(parents=True)
    (home / "llama/weights.bin").write_text(name)
    (home / ".config/backupd").mkdir(parents=True)
    return CommandLine(home, in_process=True)


def lose(tmp_path: Path, share: Path, *, host: str = "host: box1\n") -> str:
    """A box whose `share` outlives it; the recovery key."""
    lost = box(tmp_path, "lost")
    config = lost.home / ".config/backupd/backupd.yaml"
    config.write_text(CONFIG.format(host=host, share=share))
    key: str = lost.ok("init", "--json").document["recovery_key"]
    lost.ok("snapshot")
    shutil.rmtree(lost.home)
    return key


def bare(tmp_path: Path) -> CommandLine:
    home = tmp_path / "bare"
    home.mkdir()
    return CommandLine(home, in_process=True)


def test_the_configuration_the_key_and_the_missing_targets_are_made(
    tmp_path: Path, share: Path
) -> None:
    key = lose(tmp_path, share)
    made = bare(tmp_path)
    answer = made.ok("init", "--from", share, BACKUPD_PASSPHRASE=key)
    folder = made.home / ".config/backupd"
    assert f"configuration: {folder}/backupd.yaml, as box1 had it" in answer.out
    assert "share: the repository at" in answer.out
    assert "disk: made a repository at" in answer.out
    assert "Recovery key" not in answer.out
    assert "left out (***)" in answer.err
    assert "backupd restore llama@latest" in answer.out
    text = (folder / "backupd.yaml").read_text()
    assert "hunter2" not in text
    assert (folder / "key").read_text().strip() == key
    assert [(folder / name).stat().st_mode & 0o777 for name in ("key", "backupd.yaml")] == [
        0o600,
        0o600,
    ]
    # The new box's own disk has the same keys, and gets what the share has.
    made.ok("sync")
    made.ok("restore", "llama@latest", "--target", "disk", "--to", made.home / "llama")
    assert (made.home / "llama/weights.bin").read_text() == "lost"
    assert "llama: unchanged" in made.ok("snapshot").out


def test_nothing_that_is_there_is_written_over(tmp_path: Path, share: Path) -> None:
    key = lose(tmp_path, share)
    made = bare(tmp_path)
    folder = made.home / ".config/backupd"
    folder.mkdir(parents=True)
    (folder / "key").write_text("another key\n")
    answer = made("init", "--from", share, BACKUPD_PASSPHRASE=key)
    assert answer.code == 1
    assert "holds another key" in answer.err
    assert not (folder / "backupd.yaml").exists()
    (folder / "key").unlink()
    (folder / "backupd.yaml").write_text("mine\n")
    answer = made("init", "--from", share, BACKUPD_PASSPHRASE=key)
    assert answer.code == 1
    assert "is not written over" in answer.err
    assert (folder / "backupd.yaml").read_text() == "mine\n"
    assert not (folder / "key").exists()
    other = made.home / "other.yaml"
    made.ok("--config", other, "init", "--from", share, BACKUPD_PASSPHRASE=key)
    assert other.exists()


def test_of_several_hosts_one_is_to_be_named(tmp_path: Path, share: Path) -> None:
    key = lose(tmp_path, share)
    second = box(tmp_path, "second")
    folder = second.home / ".config/backupd"
    (folder / "key").write_text(key + "\n")
    (folder / "backupd.yaml").write_text(CONFIG.format(host="host: box2\n", share=share))
    second.ok("init")
    second.ok("snapshot")
    made = bare(tmp_path)
    answer = made("init", "--from", share, BACKUPD_PASSPHRASE=key)
    assert answer.code == 2
    assert "box1" in answer.err
    assert "box2" in answer.err
    assert made("init", "--from", share, "--host", "box3", BACKUPD_PASSPHRASE=key).code == 4
    made.ok("init", "--from", share, "--host", "box1", BACKUPD_PASSPHRASE=key)
    assert "host: box1" in (made.home / ".config/backupd/backupd.yaml").read_text()

    def hosts_on_disk() -> set[str]:
        found = made.ok("list", "--target", "disk", "--json").document["snapshots"]
        return {snapshot["host"] for snapshot in found}

    made.ok("sync")
    assert hosts_on_disk() == {"box1"}
    made.ok("sync", "--everything", "--from", "share", "--to", "disk")
    assert hosts_on_disk() == {"box1", "box2"}


def test_a_host_that_only_the_lost_machine_had_by_name_is_written_down(
    tmp_path: Path, share: Path
) -> None:
    key = lose(tmp_path, share, host="")
    made = bare(tmp_path)
    made.ok("init", "--from", share, BACKUPD_PASSPHRASE=key)
    text = (made.home / ".config/backupd/backupd.yaml").read_text()
    assert f"host: {os.uname().nodename}\n" in text


def test_a_wrong_key_or_an_empty_place_is_said_and_nothing_is_written(
    tmp_path: Path, share: Path
) -> None:
    lose(tmp_path, share)
    made = bare(tmp_path)
    assert made("init", "--from", share, BACKUPD_PASSPHRASE="nonsense").code == 6
    assert made("init", "--from", tmp_path / "nowhere", BACKUPD_PASSPHRASE="x").code == 5
    assert made("init", "--host", "box1").code == 2
    assert list(made.home.rglob("*")) == []
