"""A real daemon with a status page and somebody to tell: what a browser and a web hook get."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.errors import EXIT_FAILED, EXIT_USAGE
from tests.rigs.command_line import CommandLine
from tests.rigs.servers import free_ports
from tests.support.inbox import Inbox, open_inbox


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with open_inbox() as made:
        yield made


@pytest.fixture
def backupd(tmp_path: Path) -> CommandLine:
    home = tmp_path / "home"
    home.mkdir()
    made = CommandLine(home, in_process=True)
    made.ok("quickstart", "--once")
    return made


def add(backupd: CommandLine, lines: str) -> None:
    backupd.config.write_text(backupd.config.read_text() + lines)


def test_a_test_message_reaches_whom_the_configuration_names(
    backupd: CommandLine, inbox: Inbox
) -> None:
    refused = backupd("config", "notify")
    assert refused.code == EXIT_USAGE and "names nobody to tell" in refused.err
    place = f"127.0.0.1:{inbox.port}"
    add(backupd, f"notify: {{urls: ['json://{place}/h'], healthcheck: 'http://{place}/well'}}\n")
    assert backupd.ok("config", "notify").out == "sent to 1 address\n"
    assert "a test" in inbox.posts[0]["title"] and inbox.gets == ["/well"]
    inbox.answer = 500
    assert backupd("config", "notify").code == EXIT_FAILED


def test_the_running_daemon_serves_its_page(backupd: CommandLine) -> None:
    (port,) = free_ports(1)
    add(backupd, "limits: {nice: 0, io: none}\n")
    add(backupd, f"status: {{listen: '127.0.0.1:{port}'}}\n")
    daemon = subprocess.Popen(
        [sys.executable, "-m", "backupd", "run"], env=backupd.environment(), cwd=backupd.home
    )
    try:
        end = time.monotonic() + 150
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                connection.request("GET", "/status.json")
                document = json.loads(connection.getresponse().read())
                break
            except OSError:
                assert time.monotonic() < end and daemon.poll() is None
                time.sleep(0.1)
        assert document["models"][0]["name"] == "sample-model"
        assert document["pid"] == daemon.pid
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(120) == 0
    finally:
        daemon.kill()
        daemon.wait()
