"""docs/disaster.md, typed line by line on a machine that has a repository and a key only."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rigs.command_line import CommandLine
from tests.rigs.servers import S3Server
from tests.support.pages import ROOT, Block, blocks, shape

PAGE = "docs/disaster.md"
NEXT = "=== next block"
CONFIG = """\
host: box1
state_dir: ~/state
key: {{file: ~/.config/backupd/key}}
targets: {{nas: {target}}}
policies: {{working: {{keep_last: 5}}}}
models: {{llama-ft: {{path: ~/runs/llama-ft, targets: {{nas: working}}}}}}
"""
HOME = "/home/ml"
# Nothing outlives the shell, whatever the page leaves running in it.
UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def weights(count: int) -> bytes:
    """A safetensors file of one tensor of so many numbers."""
    tensor = {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}
    header = json.dumps({"weight": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + os.urandom(4 * count)


class Disaster:
    """A box that was backed up and is gone, and a bare one on which the page is followed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lost = folder / "lost"
        self.home = folder / "bare"
        self.home.mkdir(parents=True)
        self.original = folder / "original"
        self.recovery_key = ""
        self.installed = ROOT

    def install_wheel(self) -> None:
        """What is typed from here on is the wheel of this project, without the project."""
        self.installed = self.folder / "installed"
        pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
        wheels = self.folder / "wheels"
        subprocess.run([*pip, "wheel", "--no-deps", "-w", wheels, ROOT], check=True)
        [wheel] = wheels.glob("backupd-*.whl")
        to = ["install", "--no-deps", "--no-index", "--target", self.installed]
        subprocess.run([*pip, *to, wheel], check=True)

    def back_up(self, target: str, *, prepare: str = "") -> None:
        """Two snapshots into `target` (in YAML), then nothing is left of the box."""
        model = self.lost / "runs/llama-ft"
        (model / "checkpoint-100").mkdir(parents=True)
        (model / "checkpoint-100/model.safetensors").write_bytes(weights(749_000))
        (model / "config.json").write_text("{}\n")
        config = self.lost / ".config/backupd/backupd.yaml"
        config.parent.mkdir(parents=True)
        config.write_text(CONFIG.format(target=target))
        script = "backupd init --json; backupd -q snapshot; echo x > ~/runs/llama-ft/notes.txt\n"
        done = self.type(script + "backupd -q snapshot", prepare=prepare, home=self.lost)
        assert done.returncode == 0, done.stdout
        self.recovery_key = re.search(r'"recovery_key": "([^"]+)"', done.stdout)[1]  # type: ignore[index]
        shutil.copytree(model, self.original, symlinks=True)
        shutil.rmtree(self.lost)

    def type(
        self, script: str, *, prepare: str = "", home: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The lines in one shell of the bare machine; the recovery key is what is pasted.

        `prepare` is done first, in mounts of its own, so that /mnt is whatever the page says. The
        lost box and the bare one have their homes, which are two folders, under the same path.
        """
        mounted = f"mount -t tmpfs tmpfs /home && mkdir {HOME} && "
        mounted += f"mount --bind {home or self.home} {HOME}"
        program = self.folder / "bin/backupd"
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(self.installed))} "
            f'exec {shlex.quote(sys.executable)} -m backupd "$@"\n'
        )
        program.chmod(0o755)
        return subprocess.run(
            [*UNSHARE, "bash", "-c", f"set -e\n{mounted}\n{prepare}\ncd ~\n{script}"],
            input=self.recovery_key + "\n",
            env={
                "HOME": HOME,
                "PATH": f"{program.parent}:{os.environ['PATH']}",
                "LANG": "C.UTF-8",
                "COLUMNS": "100",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )

    def printed(self, typed: list[Block], *, prepare: str = "") -> list[str]:
        """What each of the blocks prints, all of which must do."""
        script = "".join(f"{block.text}echo {shlex.quote(NEXT)}\n" for block in typed)
        done = self.type(script, prepare=prepare)
        assert done.returncode == 0, done.stdout
        return [part.strip("\n") for part in done.stdout.split(NEXT)][:-1]

    def assert_restored(self, place: str = "restored/llama-ft") -> None:
        """Everything is there and the same, its bytes and its times."""
        compared = filecmp.dircmp(self.original, self.home / place, ignore=[])
        for one in (compared, compared.subdirs["checkpoint-100"]):
            assert one.left_list == one.right_list
            same, _, _ = filecmp.cmpfiles(one.left, one.right, one.common_files, shallow=False)
            assert same == one.common_files
        for path in self.original.rglob("*"):
            given = self.home / place / path.relative_to(self.original)
            assert given.stat().st_mtime_ns == path.stat().st_mtime_ns


@pytest.fixture
def disaster(tmp_path: Path) -> Disaster:
    return Disaster(tmp_path)


@pytest.fixture
def on_a_nas(disaster: Disaster) -> tuple[Disaster, str]:
    """A disaster with the repository on a NAS, and how to mount that where the page has it."""
    share = disaster.folder / "share"
    share.mkdir()
    mount = f"mount -t tmpfs tmpfs /mnt && mkdir /mnt/nas && mount --bind {share} /mnt/nas"
    disaster.back_up("{type: nas, path: /mnt/nas/models}", prepare=mount)
    return disaster, mount


@pytest.mark.system
def test_the_page_gives_everything_back_and_prints_what_it_says(
    on_a_nas: tuple[Disaster, str],
) -> None:
    disaster, mount = on_a_nas
    typed = [block for block in blocks(PAGE) if block.language == "sh"]
    assert len(typed) == 12
    for block, printed in zip(typed, disaster.printed(typed, prepare=mount), strict=True):
        if block.printed:
            known = printed.replace(HOME, "/root")
            assert shape(known) == shape(block.printed), block.text
    disaster.assert_restored()
    disaster.assert_restored("runs/llama-ft")
    assert (disaster.home / "restored/first/config.json").read_text() == "{}\n"


@pytest.mark.system
def test_until_the_daemon_is_set_up_again_nothing_is_written_but_the_files(
    on_a_nas: tuple[Disaster, str],
) -> None:
    disaster, mount = on_a_nas
    read_only = f"{mount}\nmount -o remount,bind,ro /mnt/nas"
    typed = [block for block in blocks(PAGE) if block.language == "sh"]
    set_up = next(n for n, block in enumerate(typed) if "backupd init" in block.text)
    disaster.printed(typed[:set_up], prepare=read_only)
    disaster.assert_restored()
    assert {path.name for path in disaster.home.iterdir()} == {"restored", "recovery-key"}


@pytest.mark.system
def test_the_page_leads_from_a_bucket_and_a_key_to_a_running_daemon_and_the_newest_model(
    disaster: Disaster, s3_server: S3Server
) -> None:
    disaster.install_wheel()
    bucket = s3_server.create_bucket()
    credentials = s3_server.write_credentials(disaster.folder / "credentials")
    disaster.back_up(
        f"{{type: s3, bucket: {bucket}, prefix: box1, endpoint_url: '{s3_server.endpoint_url}', "
        "path_style: true, credentials_file: ~/.config/backupd/s3}",
        prepare=f"install -m 600 {credentials} ~/.config/backupd/s3",
    )
    [place] = [block for block in blocks(PAGE) if "s3://" in block.text]
    text = place.text.replace("KEY_ID=...", f"KEY_ID={s3_server.access_key}")
    text = text.replace("ACCESS_KEY=...", f"ACCESS_KEY={s3_server.secret_key}")
    text = text.replace("https://s3.example.org", s3_server.endpoint_url)
    text = text.replace("team-models", bucket)
    aside = ("backupd check", "backupd files", "--include")
    typed = [
        block
        for block in blocks(PAGE)
        if block.language == "sh" and not any(words in block.text for words in aside)
    ]
    printed = disaster.printed([Block("sh", text), *typed[1:]])
    disaster.assert_restored()
    disaster.assert_restored("runs/llama-ft")
    said = dict(zip((block.text for block in typed), printed, strict=True))
    [set_up] = [answer for command, answer in said.items() if "init --from" in command]
    assert "credentials of nas: " in set_up
    [running] = [answer for command, answer in said.items() if "nohup" in command]
    assert "The daemon runs: pid" in running
    home = disaster.home / ".config/backupd"
    assert {path.stat().st_mode & 0o777 for path in (home / "key", home / "s3")} == {0o600}
    assert (home / "key").read_text().strip() == disaster.recovery_key


@pytest.mark.system
def test_a_damaged_target_is_made_anew_from_another_one(disaster: Disaster) -> None:
    model = disaster.home / "runs/llama-ft"
    model.mkdir(parents=True)
    (model / "weights.bin").write_bytes(os.urandom(2_000_000))
    for name in ("disk", "share"):
        (disaster.folder / name).mkdir()
    config = disaster.home / ".config/backupd/backupd.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(
        f"""\
key: {{file: {disaster.home}/key}}
targets:
  disk: {{type: local, path: {disaster.folder}/disk/models}}
  nas: {{type: nas, path: /mnt/nas/models}}
policies: {{working: {{keep_last: 5}}}}
models: {{llama-ft: {{path: {model}, targets: {{disk: working, nas: working}}}}}}
"""
    )
    prepare = (
        "mount -t tmpfs tmpfs /mnt && mkdir /mnt/nas\n"
        f"mount --bind {disaster.folder}/share /mnt/nas\n"
        "backupd init && backupd snapshot && rm -r /mnt/nas/models/packs/*"
    )
    [block] = [block for block in blocks("docs/operating.md") if "models.damaged" in block.text]
    done = disaster.type(block.text, prepare=prepare)
    assert done.returncode == 0, done.stdout
    *_, verdict = done.stdout.splitlines()
    assert verdict.startswith("nas: 1 snapshot, ")
    assert verdict.endswith("everything is there")


@pytest.mark.system
def test_the_table_of_failures_has_the_words_and_the_exit_code_of_each(
    on_a_nas: tuple[Disaster, str],
) -> None:
    disaster, _ = on_a_nas
    models = disaster.folder / "share/models"
    rows = re.findall(r"^\| (`.+?) \| (\d) \|", (ROOT / PAGE).read_text(), re.MULTILINE)
    promised = {phrase: int(code) for cell, code in rows for phrase in re.findall("`(.+?)`", cell)}
    bare = CommandLine(disaster.home, in_process=True)
    key = {"BACKUPD_PASSPHRASE": disaster.recovery_key}
    at = ("--repository", models)
    answers = [
        bare("list", *at, BACKUPD_PASSPHRASE="ANOTHER-KEY"),
        bare("list", *at),
        bare("list", "--repository", "/mnt/nowhere", **key),
        bare("list", "--repository", disaster.home, **key),
        bare("restore", "llama@v1", "--to", disaster.home / "none", *at, **key),
    ]
    pack = max(models.glob("packs/*/*"), key=lambda path: path.stat().st_size)
    pack.write_bytes(pack.read_bytes()[:-2_000_000])
    answers.append(
        bare("restore", "llama-ft@v2", "--to", disaster.home / "part", *at, **key),
    )
    assert (disaster.home / "part/config.json").read_text() == "{}\n"
    assert not (disaster.home / "part/checkpoint-100/model.safetensors").exists()
    assert "checkpoint-100/model.safetensors" in answers[-1].err
    for path in models.glob("snapshots/*/*"):
        path.write_bytes(b"x" * 50)
    answers.append(bare("restore", "box1:llama-ft@v2", "--to", disaster.home / "x", *at, **key))
    for phrase, code in promised.items():
        fitting = [answer for answer in answers if phrase in answer.err and answer.code == code]
        assert fitting, (phrase, code, [(answer.code, answer.err) for answer in answers[-2:]])
    assert {answer.code for answer in answers} == set(promised.values())
