from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from backupd.daemon.lock import DaemonLock
from backupd.daemon.notify import Notifier
from backupd.errors import BackupdError


def test_a_second_daemon_is_refused_and_told_which_process_has_the_folder(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from backupd.daemon.lock import DaemonLock\n"
        "lock = DaemonLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "state")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(BackupdError) as refused:
            DaemonLock(tmp_path / "state")
        assert f"process {first.pid}" in refused.value.message
        assert refused.value.hint
        first.kill()
    # The kernel has let go of it, though nobody tidied up.
    with DaemonLock(tmp_path / "state") as lock:
        assert lock.path.read_text() == f"{os.getpid()}\n"


def test_a_state_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackupdError, match="file/state"):
        DaemonLock(tmp_path / "file" / "state")


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[socket.socket, str]:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.settimeout(60)
    if request.param == "path":
        name = str(tmp_path / "notify")
        receiver.bind(name)
    else:
        name = f"@backupd-test-{os.getpid()}"
        receiver.bind("\0" + name[1:])
    request.addfinalizer(receiver.close)
    return receiver, name


def test_systemd_hears_each_message_as_its_manual_says(
    manager: tuple[socket.socket, str],
) -> None:
    receiver, name = manager
    environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "60000000"}
    notifier = Notifier(environment, monotonic=lambda: 12.5)
    notifier.ready("2 models")
    assert receiver.recv(1000) == b"READY=1\nSTATUS=2 models"
    notifier.reloading()
    assert receiver.recv(1000) == b"RELOADING=1\nMONOTONIC_USEC=12500000"
    notifier.alive()
    assert receiver.recv(1000) == b"WATCHDOG=1"
    notifier.status("one\nREADY=1")
    assert receiver.recv(1000) == b"STATUS=one READY=1"
    notifier.stopping("bye")
    assert receiver.recv(1000) == b"STOPPING=1\nSTATUS=bye"
    assert notifier.watchdog_seconds == 60


def test_a_watchdog_meant_for_another_process_is_not_fed(
    manager: tuple[socket.socket, str],
) -> None:
    receiver, name = manager
    environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    notifier = Notifier(environment, monotonic=lambda: 0.0)
    notifier.alive()
    notifier.status("only this")
    assert receiver.recv(1000) == b"STATUS=only this"
    assert notifier.watchdog_seconds == 0


@pytest.mark.parametrize("name", ["", "/nowhere/notify", "vsock:2:1", "@" + "x" * 200])
def test_without_a_manager_that_listens_nothing_happens(name: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": name}, monotonic=lambda: 0.0)
    notifier.ready("")
    notifier.alive()


def test_a_manager_that_does_not_read_does_not_hold_the_daemon_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}, monotonic=lambda: 0.0)
        for _ in range(5000):
            notifier.status("x" * 1000)
