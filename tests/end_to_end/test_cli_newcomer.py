"""The newcomer's story, typed as the README has it: set up, change, lose, restore."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.command_line import CommandLine


@pytest.fixture
def backupd(tmp_path: Path) -> CommandLine:
    home = tmp_path / "home"
    home.mkdir()
    return CommandLine(home)


def make_model(folder: Path) -> None:
    """A folder with one of everything that a restore has to give back."""
    (folder / "checkpoint-1").mkdir(parents=True)
    (folder / "empty").mkdir(mode=0o700)
    (folder / "checkpoint-1/weights.bin").write_bytes(os.urandom(3_000_000))
    (folder / "checkpoint-1/config.json").write_text('{"layers": 2}\n')
    os.symlink("checkpoint-1", folder / "latest")
    os.symlink("/nowhere/at all", folder / "dangling")
    os.link(folder / "checkpoint-1/weights.bin", folder / "hard-link.bin")
    with open(folder / "sparse.bin", "wb") as file:
        file.write(b"head")
        file.seek(8_000_000)
        file.write(b"tail")
    Path(os.fsdecode(os.fsencode(folder) + b"/not-utf8-\xff")).write_bytes(b"x")
    os.chmod(folder / "checkpoint-1/config.json", 0o640)
    try:
        os.setxattr(folder / "checkpoint-1/config.json", "user.origin", b"a test\0")
    except OSError:
        pass  # this filesystem has none, so there is none to give back
    for number, path in enumerate(sorted(folder.rglob("*"))):
        moment = 1_700_000_000_123_456_789 + number
        os.utime(path, ns=(moment, moment), follow_symlinks=False)


def fingerprint(folder: Path) -> dict[bytes, Any]:
    """Everything of a folder that a restore must give back, by path."""
    found: dict[bytes, Any] = {}
    first_names: dict[int, bytes] = {}
    root = os.fsencode(folder)
    for here, folders, files in os.walk(root):
        for name in sorted([*folders, *files]):
            path = os.path.join(here, name)
            known = os.lstat(path)
            content: Any = None
            if stat.S_ISLNK(known.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(known.st_mode):
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            relative = os.path.relpath(path, root)
            shared = first_names.setdefault(known.st_ino, relative)
            names = os.listxattr(path, follow_symlinks=False)
            found[relative] = (
                stat.filemode(known.st_mode),
                known.st_uid,
                known.st_gid,
                known.st_mtime_ns,
                known.st_size if stat.S_ISREG(known.st_mode) else 0,
                content,
                shared if stat.S_ISREG(known.st_mode) else b"",
                {name: os.getxattr(path, name, follow_symlinks=False) for name in names},
            )
    return found


def test_both_versions_come_back_bit_by_bit_and_again_from_the_repository_alone(
    backupd: CommandLine, tmp_path: Path
) -> None:
    model = tmp_path / "runs" / "llama-ft"
    make_model(model)
    first = fingerprint(model)

    answer = backupd.ok("quickstart", model, "--once")
    assert "llama-ft@v1" in answer.out
    assert f"backupd restore {model.name}@latest" in answer.out
    assert str(backupd.key) in answer.out
    assert stat.S_IMODE(backupd.key.stat().st_mode) == 0o600
    recovery = re.search(r"(?:[A-Z2-7]{4}-){12}[A-Z2-7]{4}", answer.out)
    assert recovery is not None

    with open(model / "checkpoint-1/weights.bin", "r+b") as file:
        file.seek(1_000_000)
        file.write(os.urandom(50_000))
    (model / "checkpoint-1/config.json").unlink()
    (model / "added.txt").write_text("new\n")
    second = fingerprint(model)
    answer = backupd.ok("snapshot")
    assert "llama-ft@v2" in answer.out
    assert "unchanged" in backupd.ok("snapshot").out

    shutil.rmtree(model)
    backupd.ok("restore", "llama-ft@v1")
    assert fingerprint(model) == first
    assert (model / "sparse.bin").stat().st_blocks * 512 < 4_000_000
    shutil.rmtree(model)
    answer = backupd.ok("restore", "llama-ft@latest")
    assert fingerprint(model) == second
    assert "restored and verified" in answer.out
    backupd.ok("restore", "llama-ft@v1", "--to", tmp_path / "beside")
    assert fingerprint(tmp_path / "beside") == first

    # Another machine: no configuration, no state, only the repository and a key.
    kept = tmp_path / "safe"
    kept.mkdir()
    shutil.copy(backupd.key, kept / "key")
    bare = CommandLine(tmp_path / "bare")
    bare.home.mkdir()
    shutil.move(backupd.repository, kept / "repository")
    shutil.rmtree(backupd.home)
    place = ("--repository", kept / "repository")
    with_key = {"BACKUPD_KEY_FILE": str(kept / "key")}
    assert "llama-ft@v2" in bare.ok("list", *place, **with_key).out
    bare.ok("restore", "llama-ft@v1", "--to", tmp_path / "third", *place, **with_key)
    assert fingerprint(tmp_path / "third") == first
    with_recovery = {"BACKUPD_PASSPHRASE": recovery[0]}
    bare.ok("restore", "llama-ft@v2", "--to", tmp_path / "fourth", *place, **with_recovery)
    assert fingerprint(tmp_path / "fourth") == second
    assert bare.ok("check", "--read-data", *place, **with_recovery).out.endswith(
        "everything is there\n"
    )
    assert not list(bare.home.iterdir())


def test_without_a_folder_quickstart_tells_the_story_on_a_sample(backupd: CommandLine) -> None:
    answer = backupd.ok("quickstart", "--once")
    sample = backupd.home / ".local/share/backupd/sample-model"
    assert (sample / "latest/model.safetensors").stat().st_size > 1_000_000
    before = fingerprint(sample)
    shutil.rmtree(sample)
    typed = re.search(r"backupd (restore \S+@latest)", answer.out)
    assert typed is not None
    backupd.ok(*typed[1].split())
    assert fingerprint(sample) == before


def test_quickstart_twice_goes_on_and_destroys_nothing(
    backupd: CommandLine, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    make_model(model)
    first = backupd.ok("quickstart", model, "--once")
    made = {path: path.read_bytes() for path in (backupd.config, backupd.key)}
    answer = backupd.ok("quickstart", model, "--once")
    assert "is there already; going on with it" in answer.out
    assert "unchanged" in answer.out
    assert "Recovery key" in first.out
    assert "Recovery key" not in answer.out
    assert {path: path.read_bytes() for path in made} == made


def test_quickstart_of_another_folder_says_which_lines_to_add_and_they_work(
    backupd: CommandLine, tmp_path: Path
) -> None:
    for name in ("one", "two words"):
        make_model(tmp_path / name)
    backupd.ok("quickstart", tmp_path / "one", "--once")
    before = backupd.config.read_bytes()
    refused = backupd("quickstart", tmp_path / "two words", "--once")
    assert refused.code == 2
    assert backupd.config.read_bytes() == before
    lines = [line for line in refused.err.splitlines() if line.startswith("  ")]
    assert len(lines) == 3
    backupd.config.write_bytes(before.rstrip() + b"\n" + "\n".join(lines).encode() + b"\n")
    assert "two-words@v1" in backupd.ok("quickstart", tmp_path / "two words", "--once").out


def test_quickstart_of_no_folder_writes_nothing(backupd: CommandLine) -> None:
    answer = backupd("quickstart", backupd.home / "none", "--once")
    assert answer.code == 4
    assert "there is no folder" in answer.err
    assert list(backupd.home.iterdir()) == []


def test_quickstart_with_a_configuration_elsewhere_keeps_everything_beside_it(
    backupd: CommandLine, tmp_path: Path
) -> None:
    make_model(tmp_path / "model")
    config = tmp_path / "set up" / "b.yaml"
    answer = backupd.ok("--config", config, "quickstart", tmp_path / "model", "--once")
    assert f"--config '{config}' restore" in answer.out
    assert {path.name for path in config.parent.iterdir()} >= {"b.yaml", "key", "repository"}
    assert list(backupd.home.iterdir()) == []


def test_a_lost_key_file_is_not_replaced_by_a_new_one(backupd: CommandLine, tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    backupd.ok("quickstart", tmp_path / "model", "--once")
    backupd.key.unlink()
    answer = backupd("quickstart", tmp_path / "model", "--once")
    assert answer.code == 6
    assert "recovery key" in answer.err
    assert not backupd.key.exists()
