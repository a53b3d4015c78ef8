"""The training program's side: never raising, never blocking, never slow."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backupd import client
from tests.support.training_client import best_round, own_sender
from tests.unit.daemon_fakes import PATIENCE_SECONDS, eventually

SLOWEST_SECONDS = 1e-3


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(client, "_said", set())
    monkeypatch.setenv("BACKUPD_SOCKET", str(tmp_path / "absent.sock"))
    with own_sender(monkeypatch):
        yield


class Daemon:
    """A socket that keeps what it is told and answers by `answer`."""

    def __init__(self, path: Path, answer: Callable[[dict[str, Any]], Any]) -> None:
        self.asked: list[dict[str, Any]] = []
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                line = connection.makefile("rb").readline()
                request = json.loads(line)
                self.asked.append(request)
                reply = self._answer(request)
                if reply is not None:
                    connection.sendall(json.dumps(reply).encode() + b"\n")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    path = tmp_path / "trainer.sock"
    monkeypatch.setenv("BACKUPD_SOCKET", str(path))
    made = Daemon(path, lambda request: {"ok": True})
    yield made
    made.close()


def slowest_call() -> float:
    """The seconds that a call with all that belongs to it takes at most."""

    def ask(step: int) -> None:
        client.snapshot("llama-ft", metrics={"loss": 1.0}, step=step)
        with client.writing("llama-ft"):
            pass

    return best_round(ask, calls=200, enough_seconds=SLOWEST_SECONDS)


def test_a_snapshot_is_asked_for_with_what_is_known(daemon: Daemon) -> None:
    assert client.snapshot("m", labels={"a": 1}, metrics={"loss": 0.5}, step=7, epoch=1.5) is None
    eventually(lambda: bool(daemon.asked))
    asked = daemon.asked[0]
    assert (asked["op"], asked["models"], asked["step"], asked["epoch"]) == (
        "snapshot",
        ["m"],
        7,
        1.5,
    )
    assert asked["labels"] == {"a": "1"} and asked["metrics"] == {"loss": 0.5}
    assert asked["wait"] is False


def test_what_is_no_finite_number_is_no_metric(daemon: Daemon) -> None:
    class Tensor:
        def __float__(self) -> float:
            return 2.5

    metrics = {"t": Tensor(), "nan": float("nan"), "text": "x", "none": None, "inf": 1e999}
    client.snapshot("m", metrics=metrics)
    eventually(lambda: bool(daemon.asked))
    assert daemon.asked[0]["metrics"] == {"t": 2.5}


def test_writing_holds_and_releases_in_order(daemon: Daemon) -> None:
    with pytest.raises(ZeroDivisionError), client.writing("m", timeout_seconds=9):
        raise ZeroDivisionError
    client.snapshot("m")
    eventually(lambda: len(daemon.asked) == 3)
    assert [asked["op"] for asked in daemon.asked] == ["hold", "release", "snapshot"]
    assert daemon.asked[0]["seconds"] == 9
    assert daemon.asked[0]["token"] == daemon.asked[1]["token"]


def test_without_a_daemon_a_call_takes_no_time_and_raises_nothing() -> None:
    assert slowest_call() < SLOWEST_SECONDS
    assert client.snapshot("m", wait=True) is None


def test_with_a_daemon_that_hangs_a_call_takes_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hung.sock"
    monkeypatch.setenv("BACKUPD_SOCKET", str(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        assert slowest_call() < SLOWEST_SECONDS
        began = time.monotonic()
        assert client.snapshot("m", wait=True, timeout_seconds=0.3) is None
        assert time.monotonic() - began < PATIENCE_SECONDS


def test_waiting_gives_the_name_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.sock"
    monkeypatch.setenv("BACKUPD_SOCKET", str(path))
    replies: list[Any] = [
        {"ok": True, "results": [{"report": {"snapshot": {"model": "m", "version": 3}}}]},
        {"ok": True, "results": [{"report": None, "error": "boom"}]},
        {"ok": False, "error": "no model 'm' is configured"},
        None,
    ]
    made = Daemon(path, lambda request: replies.pop(0))
    assert client.snapshot("m", wait=True) == "m@v3"
    assert [client.snapshot("m", wait=True) for _ in range(3)] == [None, None, None]
    made.close()


def test_nonsense_raises_nothing() -> None:
    assert client.snapshot(None, labels=3, metrics=object(), step="x") is None  # type: ignore[arg-type]


def test_a_path_that_is_longer_than_an_address_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    here = os.getcwd()
    os.chdir(folder)
    try:
        made = Daemon(Path("t.sock"), lambda request: {"ok": True})
    finally:
        os.chdir(here)
    monkeypatch.setenv("BACKUPD_SOCKET", str(folder / "t.sock"))
    client.snapshot("m")
    eventually(lambda: bool(made.asked))
    made.close()


def test_what_was_said_last_is_sent_before_the_program_ends(daemon: Daemon) -> None:
    # The end waits a second for it, in which a busy machine may do nothing.
    program = (
        "from backupd import client\n"
        f"client._EXIT_SECONDS = {PATIENCE_SECONDS}\n"
        "client.snapshot('m', step=1)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
    assert [asked["step"] for asked in daemon.asked] == [1]


def test_a_child_of_fork_speaks_for_itself(daemon: Daemon) -> None:
    client.snapshot("parent")
    eventually(lambda: len(daemon.asked) == 1)
    child = os.fork()
    if child == 0:
        client.snapshot("child")
        client._SENDER.drain(PATIENCE_SECONDS)
        os._exit(0)
    os.waitpid(child, 0)
    eventually(lambda: [asked["models"] for asked in daemon.asked] == [["parent"], ["child"]])


def test_a_program_that_cannot_reach_a_daemon_ends_as_it_would(tmp_path: Path) -> None:
    program = (
        "from backupd import client\n"
        "for step in range(100):\n"
        "    client.snapshot('m', step=step)\n"
        "print('done')\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "BACKUPD_SOCKET": str(tmp_path / "none")},
    )
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert done.stderr.count("backupd was not told") <= 1
    assert time.monotonic() - began < PATIENCE_SECONDS


def test_only_the_standard_library_is_imported() -> None:
    program = (
        "import sys\nbefore = set(sys.modules)\nimport backupd.client\n"
        "names = {n.split('.')[0] for n in set(sys.modules) - before} - {'backupd'}\n"
        "print(sorted(n for n in names if n not in sys.stdlib_module_names))\n"
        "print(sorted(n for n in sys.modules if n.startswith('backupd')))\n"
        "import backupd.integrations.transformers, backupd.integrations.lightning\n"
        "import backupd.integrations.keras, backupd.integrations.accelerate\n"
        "print([n for n in ('torch', 'keras', 'transformers') if n in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "[]\n['backupd', 'backupd.client']\n[]\n", done.stderr
