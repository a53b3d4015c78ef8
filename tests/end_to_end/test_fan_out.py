"""One daemon, several targets: none waits for another, and what one is owed comes to it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.command_line import CommandLine
from tests.rigs.servers import S3Server
from tests.targets.conftest import mounted_tmpfs

CONFIG = """\
host: box
state_dir: {home}/state
key: {{file: {home}/key}}
limits: {{upload: {upload}, nice: 0, io: none}}
targets:
  disk: {{type: local, path: {home}/disk/models}}
  other: {{type: local, path: {home}/other/models}}
  nas: {{type: nas, path: {home}/nas/models, require_mount: {mount}}}
policies: {{few: {{keep_last: 5}}}}
models:
  llama:
    path: {home}/llama
    schedule: "0 0 1 1 *"
    targets: {{disk: few, other: few, nas: few}}
"""


@pytest.fixture
def box(tmp_path: Path) -> CommandLine:
    """Three targets, and a model that nothing was stored of yet."""
    home = tmp_path / "home"
    for name in ("llama", "disk", "other", "nas", ".config/backupd"):
        (home / name).mkdir(parents=True)
    change(home)
    made = CommandLine(home, in_process=True)
    configure(made)
    made.ok("init")
    return made


def configure(box: CommandLine, *, upload: str = "10GB/s", mount: str = "false") -> None:
    text = CONFIG.format(home=box.home, upload=upload, mount=mount)
    (box.home / ".config/backupd/backupd.yaml").write_text(text)


def change(home: Path, size: int = 300_000) -> None:
    (home / "llama/weights.bin").write_bytes(os.urandom(size))


@contextmanager
def daemon(box: CommandLine) -> Iterator[subprocess.Popen[str]]:
    with (box.home / "daemon.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "backupd", "run"],
            env=box.environment(),
            cwd=box.home,
            stdout=log,
            stderr=log,
            text=True,
        )
        try:
            until(lambda: status(box).get("running"))
            yield process
        finally:
            process.kill()
            process.wait()


def status(box: CommandLine) -> dict[str, Any]:
    answer = box("status", "--json")
    document: dict[str, Any] = json.loads(answer.out) if answer.code == 0 else {}
    return document


def of_target(box: CommandLine, name: str) -> dict[str, Any]:
    models = status(box).get("models") or [{"targets": []}]
    return next((t for t in models[0]["targets"] if t["target"] == name), {})


def until(condition: Callable[[], object], seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def stored(box: CommandLine, name: str, version: int) -> Callable[[], object]:
    def look() -> object:
        found = of_target(box, name)
        return found.get("state") == "stored" and found.get("version") == version

    return look


def listed(box: CommandLine, name: str) -> list[int]:
    found = box.ok("list", "--json", "--target", name).document["snapshots"]
    return [snapshot["version"] for snapshot in found]


def test_a_snapshot_is_copied_to_all_targets_and_an_absent_one_gets_it_on_its_return(
    box: CommandLine,
) -> None:
    home = box.home
    with daemon(box) as process:
        for name in ("disk", "other", "nas"):
            until(stored(box, name, 1))
        (home / "nas/models").rename(home / "nas/away")
        change(home)
        assert "llama@v2" in box.ok("snapshot", "--wait").out
        until(stored(box, "other", 2))
        until(lambda: of_target(box, "nas")["state"] == "failed")
        nas = of_target(box, "nas")
        assert nas["owed"] == 1
        assert nas["failed_since"].endswith("Z")
        assert "nas" in nas["error"]
        shown = box.ok("status")
        assert "failing since" in shown.err
        said = box.ok("list", "--json").document["owed"]
        assert [(one["target"], one["version"], one["state"]) for one in said] == [
            ("nas", 2, "failed")
        ]
        # What is owed outlives the daemon, and the model itself.
        process.send_signal(signal.SIGKILL)
        process.wait()
    shutil.rmtree(home / "llama")
    with daemon(box):
        until(lambda: of_target(box, "nas").get("failures"))
        # It is asked every five seconds, and is to be seen away first.
        time.sleep(12)
        (home / "nas/away").rename(home / "nas/models")
        until(stored(box, "nas", 2))
        assert "the target is back" in log(box)
    assert listed(box, "nas") == [1, 2]
    box.ok("check", "--read-data", "--target", "nas")


def log(box: CommandLine) -> str:
    return (box.home / "daemon.log").read_text()


def test_a_slow_target_holds_up_neither_the_snapshot_nor_the_others(box: CommandLine) -> None:
    # A NAS that takes half an hour for what a disk takes in no time. Of several packs, as the first
    # that goes out does so at once, however slow the way is.
    configure(box, upload="20kB/s")
    change(box.home, 40_000_000)
    with daemon(box):
        until(stored(box, "other", 1))
        nas = of_target(box, "nas")
        assert nas["state"] in ("copying", "pending")
        assert listed(box, "nas") == []
        jobs = status(box)["jobs"]
        assert ("copy", "llama", "nas") in [(j["job"], j["name"], j["target"]) for j in jobs]
        change(box.home)
        answer = box.ok("snapshot", "--wait", "--json")
        [report] = answer.document["snapshots"]
        assert report["snapshot"]["targets"] == ["disk"]
        assert [t["target"] for t in report["targets"] if t["pending"]] == ["other", "nas"]
        until(stored(box, "other", 2))
        assert listed(box, "nas") == []


def test_where_the_nearest_is_absent_the_next_takes_the_snapshot_and_the_first_is_owed(
    box: CommandLine,
) -> None:
    home = box.home
    (home / "disk/models").rename(home / "disk/away")
    answer = box("snapshot", "--json")
    assert answer.code == 3
    [report] = answer.document["snapshots"]
    wrong = [one["target"] for one in report["targets"] if one["error"]]
    assert wrong == ["disk"]
    assert report["snapshot"]["targets"] == ["other", "nas"]
    shown = box("snapshot")
    assert shown.code == 3
    assert "llama is not on disk" in shown.err
    (home / "disk/away").rename(home / "disk/models")
    box.ok("sync", "--to", "disk")
    assert listed(box, "disk") == [1]
    change(home)
    box.ok("snapshot")
    assert [listed(box, name) for name in ("disk", "other", "nas")] == [[1, 2]] * 3


def test_by_hand_the_copies_are_made_at_once_and_nothing_is_listed_before_it_is_whole(
    box: CommandLine,
) -> None:
    report = box.ok("snapshot", "--json").document["snapshots"][0]
    assert report["snapshot"]["targets"] == ["disk", "other", "nas"]
    again = box.ok("snapshot", "--json").document["snapshots"][0]
    assert again["unchanged"]
    assert again["targets"] == []


@pytest.mark.system
def test_where_the_nearest_is_full_the_next_takes_the_snapshot(box: CommandLine) -> None:
    home = box.home
    (home / "disk/models").rename(home / "kept")
    with mounted_tmpfs(home / "disk", "size=1m") as small:
        shutil.copytree(home / "kept", small / "models")
        change(home, 3_000_000)
        answer = box("snapshot", "--json")
        assert answer.code == 3
        [report] = answer.document["snapshots"]
        [full] = [one for one in report["targets"] if one["error"]]
        assert full["target"] == "disk"
        assert "room" in full["error"] or "full" in full["error"] or "space" in full["error"]
        assert report["snapshot"]["targets"] == ["other", "nas"]


def test_the_same_packs_go_to_a_bucket_and_come_back_from_it_alone(
    tmp_path: Path, s3_server: S3Server
) -> None:
    home = tmp_path / "home"
    for name in ("llama", ".config/backupd"):
        (home / name).mkdir(parents=True)
    bucket = s3_server.create_bucket()
    credentials = s3_server.write_credentials(home / "credentials")
    store = (
        f"{{type: s3, bucket: {bucket}, prefix: box1, path_style: true, "
        f"endpoint_url: '{s3_server.endpoint_url}', credentials_file: {credentials}}}"
    )
    text = CONFIG.format(home=home, upload="10GB/s", mount="false")
    text = re.sub(r"  other: .*\n", f"  other: {store}\n", text)
    (home / ".config/backupd/backupd.yaml").write_text(text)
    (home / "disk").mkdir()
    (home / "nas").mkdir()
    box = CommandLine(home, in_process=True)
    box.ok("init")
    for size in (40_000_000, 3_000_000):
        change(home, size)
        report = box.ok("snapshot", "--json").document["snapshots"][0]
        assert report["snapshot"]["targets"] == ["disk", "other", "nas"]
    found = s3_server.client().list_objects_v2(Bucket=bucket, Prefix="box1/packs/")
    there = {entry["Key"].rpartition("/")[2] for entry in found["Contents"]}
    here = {path.name for path in (home / "disk/models/packs").rglob("*") if path.is_file()}
    assert there == here
    shutil.rmtree(home / "disk")
    shutil.rmtree(home / "nas")
    original = (home / "llama/weights.bin").read_bytes()
    box.ok("restore", "llama@latest", "--target", "other", "--to", home / "again")
    assert (home / "again/weights.bin").read_bytes() == original
    (home / "disk").mkdir()
    (home / "nas").mkdir()
    box.ok("init")
    box.ok("sync", "--from", "other")
    assert listed(box, "disk") == listed(box, "nas") == [1, 2]
    box.ok("check", "--read-data", "--target", "disk")
