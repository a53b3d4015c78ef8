"""The socket for training programs: whoever owns a model's folder may speak for it, nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OWNER, STRANGER = 65_101, 65_102
CONFIG = """\
state_dir: {root}/state
key: {{encryption: none}}
limits: {{nice: 0, io: none}}
targets: {{disk: {{type: local, path: {root}/repo}}}}
policies: {{all: {{keep_last: 9}}}}
models:
  llama:
    path: {root}/run
    schedule: "0 3 1 1 *"
    settle: 1h
    settle_max: 2h
    targets: {{disk: all}}
"""
ASK = """
import json, os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    connection.sendall(sys.argv[3].encode() + b"\\n")
    for line in connection.makefile():
        reply = json.loads(line)
        if "ok" in reply:
            print(json.dumps(reply))
            break
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A daemon with systemd's runtime folder, and a model of `OWNER`."""
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory(prefix="backupd-socket-") as name:
        Path(name).chmod(0o755)
        yield from running(Path(name))


def running(root: Path) -> Iterator[Path]:
    """The same, in `root`."""
    (root / "run").mkdir()
    (root / "run" / "last.npy").write_bytes(b"")
    os.chown(root / "run", OWNER, OWNER)
    (root / "runtime").mkdir(mode=0o755)
    config = root / "backupd.yaml"
    config.write_text(CONFIG.format(root=root))
    command = [sys.executable, "-m", "backupd", "--config", str(config)]
    subprocess.run([*command, "init"], check=True, cwd=ROOT, capture_output=True)
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "run"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, "RUNTIME_DIRECTORY": str(root / "runtime")},
        )
    deadline = time.monotonic() + 150
    while not (root / "runtime" / "trainer.sock").exists():
        assert process.poll() is None and time.monotonic() < deadline, (root / "log").read_text()
        time.sleep(0.05)
    yield root
    process.terminate()
    assert process.wait(120) == 0
    assert not (root / "runtime" / "trainer.sock").exists()


def ask(folder: Path, user: int, request: dict[str, object]) -> dict[str, object]:
    place = folder / "runtime" / "trainer.sock"
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(place), str(user), json.dumps(request)],
        capture_output=True,
        text=True,
        check=True,
        timeout=180,
    )
    reply: dict[str, object] = json.loads(done.stdout)
    return reply


def test_the_owner_of_a_models_folder_may_ask_for_it(folder: Path) -> None:
    assert ask(folder, OWNER, {"op": "snapshot", "models": ["llama"], "step": 7})["ok"] is True
    held = {"op": "hold", "model": "llama", "token": "t", "seconds": 60}
    assert ask(folder, OWNER, held)["ok"] is True
    assert ask(folder, OWNER, {"op": "release", "model": "llama", "token": "t"})["ok"] is True


def test_nobody_else_may_and_nobody_learns_what_there_is(folder: Path) -> None:
    for request in (
        {"op": "snapshot", "models": ["llama"]},
        {"op": "snapshot"},
        {"op": "hold", "model": "llama", "token": "t", "seconds": 60},
        {"op": "list"},
        {"op": "status"},
        {"op": "nonsense"},
    ):
        strange = ask(folder, STRANGER, request)
        assert strange["ok"] is False and str(folder) not in json.dumps(strange)
    theirs = ask(folder, STRANGER, {"op": "snapshot", "models": ["llama"]})
    nobodys = ask(folder, STRANGER, {"op": "snapshot", "models": ["other"]})
    assert str(theirs["error"]).replace("llama", "other") == nobodys["error"]
    assert ask(folder, OWNER, {"op": "list"})["ok"] is False


def test_the_control_socket_stays_closed_to_them(folder: Path) -> None:
    assert (folder / "state" / "control.sock").stat().st_mode & 0o077 == 0
    assert (folder / "runtime" / "trainer.sock").stat().st_mode & 0o666 == 0o666
