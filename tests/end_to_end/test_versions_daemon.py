"""The daemon beside a switch: its watch follows the folder, its next snapshot the history."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.rigs.command_line import CommandLine


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_the_daemon_goes_on_watching_the_folder_that_was_switched(tmp_path: Path) -> None:
    backupd = CommandLine(tmp_path / "home", in_process=True)
    backupd.home.mkdir()
    model = tmp_path / "llama"
    model.mkdir()
    (model / "weights.bin").write_bytes(os.urandom(100_000))
    backupd.ok("quickstart", model, "--once")
    (model / "weights.bin").write_bytes(os.urandom(100_000))
    backupd.ok("snapshot")
    daemon = subprocess.Popen(
        [sys.executable, "-m", "backupd", "run"],
        env=backupd.environment(),
        cwd=backupd.home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def told() -> dict[str, object]:
        answer = backupd("status", "--json")
        models = answer.document.get("models") if answer.code == 0 else None
        return models[0] if models else {}

    try:
        wait_for(lambda: dict(told().get("watch") or {}).get("mode") == "watching")
        out = backupd.ok("switch", "llama", "v1").out
        assert "llama is now llama@v1" in out
        (model / "notes").write_text("on from v1")
        backupd.ok("snapshot", "--wait")
        assert backupd.ok("show", "llama@v3", "--json").document["snapshot"]["parent"] == 1

        def is_seen() -> bool:
            """Whether a write is noticed by events; a look at the root is every 5 s."""
            backupd.ok("snapshot", "--wait")
            if told().get("changed"):
                return False
            (model / "notes").write_text(f"seen {time.monotonic()}")
            time.sleep(0.5)
            return bool(told().get("changed"))

        wait_for(is_seen)
    finally:
        daemon.terminate()
        daemon.wait(30)
