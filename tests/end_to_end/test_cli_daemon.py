"""The commands beside a running daemon, and Ctrl-C in the middle of work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.rigs.command_line import CommandLine


@pytest.fixture
def backupd(tmp_path: Path) -> CommandLine:
    home = tmp_path / "home"
    home.mkdir()
    return CommandLine(home, in_process=True)


@contextmanager
def running(backupd: CommandLine, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "backupd", *map(str, arguments)],
        env=backupd.environment(),
        cwd=backupd.home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the run itself was put into the background by a script, Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], bool], *, pause: float = 0.05) -> None:
    end = time.monotonic() + 150
    while not condition():
        assert time.monotonic() < end
        time.sleep(pause)


def packs(backupd: CommandLine) -> int:
    return len(list(backupd.repository.glob("packs/*/*")))


def test_quickstart_goes_on_watching_and_the_commands_go_through_it(
    backupd: CommandLine, tmp_path: Path
) -> None:
    model = tmp_path / "llama"
    model.mkdir()
    (model / "weights.bin").write_bytes(os.urandom(100_000))
    with running(backupd, "quickstart", model) as daemon:

        def is_running() -> bool:
            assert daemon.poll() is None, daemon.communicate()
            status = backupd("status", "--json")
            return status.code == 0 and bool(status.document["running"])

        wait_for(is_running)
        waited = backupd.ok("snapshot", "--wait", "--label", "by=hand")
        assert "llama@v2 (by=hand)" in waited.out
        queued = backupd.ok("snapshot", "--json", "--label", "by=queue").document
        assert queued == {"queued": ["llama"], "snapshots": []}
        wait_for(lambda: "llama@v3" in backupd.ok("list").out)
        shown = backupd.ok("status")
        assert f"pid {daemon.pid}" in shown.out
        assert "llama" in shown.out

        def of_model() -> dict[str, object]:
            [found] = backupd.ok("status", "--json").document["models"]
            return dict(found)

        # The daemon takes it down after it can be listed.
        wait_for(lambda: of_model()["snapshot"] == "llama@v3")
        told = of_model()
        assert str(told["snapshot_time"]).endswith("Z")
        unknown = backupd("snapshot", "lama")
        assert unknown.code == 4
        daemon.send_signal(signal.SIGINT)
        out, err = daemon.communicate(timeout=120)
        assert daemon.returncode == 0, err
        assert "Watching now; Ctrl-C ends it." in out
    assert backupd.ok("status", "--json").document["running"] is False


def test_ctrl_c_stops_a_snapshot_and_the_next_one_goes_on(
    backupd: CommandLine, tmp_path: Path
) -> None:
    model = tmp_path / "big"
    model.mkdir()
    backupd.ok("quickstart", model, "--once")
    # So much that the signal, sent when the first pack is there, cannot come too late.
    for number in range(20):
        (model / f"{number}.bin").write_bytes(os.urandom(24_000_000))
    before = packs(backupd)
    with running(backupd, "snapshot") as process:
        wait_for(lambda: packs(backupd) > before, pause=0.005)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 130, err
        assert "kept" in err
        assert "Traceback" not in err
    assert "big@v2" not in backupd.ok("list").out
    backupd.ok("snapshot")
    assert "big@v2" in backupd.ok("list").out
    assert backupd("check", "--read-data").code == 0
