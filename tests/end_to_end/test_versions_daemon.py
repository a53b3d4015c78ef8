"""The daemon beside a switch: its watch follows the folder, its next snapshot the history."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backupd.operations import swapping
from tests.rigs.command_line import CommandLine
from tests.support.killing import kill_self, killed_in_child


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 150
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@contextmanager
def daemon_of(backupd: CommandLine) -> Iterator[None]:
    # At the priority of the rest, all of which would starve it on a busy machine.
    backupd.config.write_text(backupd.config.read_text() + "limits: {nice: 0, io: none}\n")
    daemon = subprocess.Popen(
        [sys.executable, "-m", "backupd", "run"],
        env=backupd.environment(),
        cwd=backupd.home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        daemon.terminate()
        daemon.wait(120)


def test_the_daemon_goes_on_watching_the_folder_that_was_switched(tmp_path: Path) -> None:
    backupd = CommandLine(tmp_path / "home", in_process=True)
    backupd.home.mkdir()
    model = tmp_path / "llama"
    model.mkdir()
    (model / "weights.bin").write_bytes(os.urandom(100_000))
    backupd.ok("quickstart", model, "--once")
    (model / "weights.bin").write_bytes(os.urandom(100_000))
    backupd.ok("snapshot")

    def told() -> dict[str, object]:
        answer = backupd("status", "--json")
        models = answer.document.get("models") if answer.code == 0 else None
        return models[0] if models else {}

    with daemon_of(backupd):
        wait_for(lambda: dict(told().get("watch") or {}).get("mode") == "watching")
        out = backupd.ok("switch", "llama", "v1").out
        assert "llama is now llama@v1" in out
        (model / "notes").write_text("on from v1")
        backupd.ok("snapshot", "--wait")
        assert backupd.ok("show", "llama@v3", "--json").document["snapshot"]["parent"] == 1
        backupd.ok("snapshot", "--scheme", "model", "--wait")
        assert backupd.ok("show", "llama@v4", "--json").document["snapshot"]["scheme"] == "model"

        def is_seen() -> bool:
            """Whether a write is noticed by events; a look at the root is every 5 s."""
            backupd.ok("snapshot", "--wait")
            if told().get("changed"):
                return False
            (model / "notes").write_text(f"seen {time.monotonic()}")
            time.sleep(0.5)
            return bool(told().get("changed"))

        wait_for(is_seen)


def test_a_daemon_that_starts_ends_a_switch_that_was_killed(tmp_path: Path) -> None:
    """Between the two renames of a filesystem without exchange there is no folder at all."""
    backupd = CommandLine(tmp_path / "home", in_process=True)
    backupd.home.mkdir()
    model = tmp_path / "llama"
    model.mkdir()
    (model / "a").write_text("first")
    backupd.ok("quickstart", model, "--once")
    (model / "a").write_text("second")
    backupd.ok("snapshot")

    def child() -> None:
        swapping.rename_exchange = lambda one, other: False
        real = os.rename

        def rename(old: str, new: str, **rest: int) -> None:
            if new == str(model):
                kill_self()
            real(old, new, **rest)

        os.rename = rename
        backupd("switch", "llama", "v1")

    assert killed_in_child(child)
    assert not model.exists()
    with daemon_of(backupd):
        wait_for(model.exists)
        assert (model / "a").read_text() == "first"
        wait_for(lambda: sorted(os.listdir(tmp_path)) == ["home", "llama"])
