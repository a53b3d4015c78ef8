from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from backupd.daemon import client
from backupd.daemon.control import MAX_CONNECTIONS, ControlServer
from backupd.daemon.wire import SnapshotResult, decode_result, encode_result, socket_address
from backupd.errors import NotFoundError
from backupd.operations.reports import SnapshotReport, TargetResult
from tests.unit.daemon_fakes import PATIENCE_SECONDS, LogLines, eventually, info

Serve = Callable[..., ControlServer]


def echo(request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    match request["op"]:
        case "echo":
            yield {"ok": True, "request": dict(request)}
        case "events":
            for number in range(3):
                yield {"event": "progress", "number": number}
            yield {"ok": True}
        case "refuse":
            raise NotFoundError("no model 'x' is configured", hint="configured models: llama")
        case "bug":
            raise RuntimeError("boom")
        case "sleep":
            time.sleep(3)
            yield {"ok": True}
        case "silence":
            return


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    made: list[ControlServer] = []

    def begin(folder: Path = tmp_path, **options: Any) -> ControlServer:
        options = {"log": LogLines().log, "allowed": frozenset({0, os.geteuid()}), **options}
        answer = options.pop("answer", echo)
        server = ControlServer(folder, lambda request, peer: answer(request), **options)
        server.start()
        made.append(server)
        return server

    yield begin
    for server in made:
        server.close()


def raw(folder: Path, data: bytes) -> bytes:
    """What comes back for bytes that no client of ours would send."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection,
        socket_address(folder) as address,
    ):
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(address)
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        reply = b""
        while more := connection.recv(65536):
            reply += more
        return reply


def test_a_request_is_answered_and_events_come_before_the_reply(
    serve: Serve, tmp_path: Path
) -> None:
    serve()
    reply = client.ask(tmp_path, {"op": "echo", "name": "a\udcff", "text": "grün"})
    assert reply["request"] == {"op": "echo", "name": "a\udcff", "text": "grün"}
    events: list[Mapping[str, Any]] = []
    client.ask(tmp_path, {"op": "events"}, on_event=events.append)
    assert [event["number"] for event in events] == [0, 1, 2]


def test_the_socket_is_its_user_s_alone(serve: Serve, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        serve()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "control.sock").stat().st_mode) == 0o600


def test_another_user_is_refused_even_where_the_socket_opens(serve: Serve, tmp_path: Path) -> None:
    lines = LogLines()
    serve(allowed=frozenset({12345}), log=lines.log)
    with pytest.raises(client.DaemonRefusedError, match="may not ask"):
        client.ask(tmp_path, {"op": "echo"})
    assert lines.lines()[0]["uid"] == os.geteuid()


def test_a_user_without_the_right_is_told_so(serve: Serve, tmp_path: Path) -> None:
    serve()
    os.chown(tmp_path / "control.sock", 12345, 12345)
    program = (
        "import sys; from pathlib import Path; from backupd.daemon import client\n"
        "try: client.status(Path(sys.argv[1]))\n"
        "except client.DaemonDeniedError as error: print(error.message, '|', error.hint)\n"
    )
    # Still root, but without root's right to pass by a file's mode.
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    done = subprocess.run(
        [*without, sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert "its own user and root only" in done.stdout, done.stderr


def test_an_error_keeps_its_hint_and_exit_code(serve: Serve, tmp_path: Path) -> None:
    serve()
    with pytest.raises(client.DaemonRefusedError) as refused:
        client.ask(tmp_path, {"op": "refuse"})
    assert refused.value.message == "no model 'x' is configured"
    assert refused.value.hint == "configured models: llama"
    assert refused.value.exit_code == 4


def test_a_bug_in_an_answer_is_an_answer_too(serve: Serve, tmp_path: Path) -> None:
    lines = LogLines()
    serve(log=lines.log)
    with pytest.raises(client.DaemonRefusedError, match="bug"):
        client.ask(tmp_path, {"op": "bug"})
    assert "boom" in lines.lines()[0]["exception"]
    assert client.ask(tmp_path, {"op": "echo"})["ok"]


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"hello\n",
        b"[1]\n",
        b"\xff\xfe\n",
        b'{"op": "ech',
        b"[" * 100_000 + b"\n",
        b"x" * 300_000,
    ],
)
def test_what_is_no_request_is_refused_and_the_server_lives(
    serve: Serve, tmp_path: Path, data: bytes
) -> None:
    serve()
    try:
        reply = raw(tmp_path, data)
    except (ConnectionResetError, BrokenPipeError):
        reply = b""  # It did not read to the end of what is too long.
    assert reply == b"" or json.loads(reply)["ok"] is False
    assert client.ask(tmp_path, {"op": "echo"})["ok"]


def test_several_requests_may_share_a_connection(serve: Serve, tmp_path: Path) -> None:
    serve()
    replies = raw(tmp_path, b'{"op": "echo", "n": 1}\n{"op": "echo", "n": 2}\n').splitlines()
    assert [json.loads(reply)["request"]["n"] for reply in replies] == [1, 2]


def answered(folder: Path) -> bool:
    """Whether one more client is answered; while many ask it may be told to try again."""
    try:
        return bool(client.ask(folder, {"op": "echo"})["ok"])
    except (client.DaemonRefusedError, client.DaemonSilentError):
        return False


def test_silent_clients_are_dropped_and_hold_up_nobody(serve: Serve, tmp_path: Path) -> None:
    serve(request_seconds=0.5)
    silent = []
    for _ in range(MAX_CONNECTIONS):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(tmp_path / "control.sock"))
        silent.append(connection)

    eventually(lambda: answered(tmp_path))
    for connection in silent:
        connection.close()


def test_a_client_that_leaves_early_costs_nothing(serve: Serve, tmp_path: Path) -> None:
    serve()
    for _ in range(3 * MAX_CONNECTIONS):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(str(tmp_path / "control.sock"))
            try:
                connection.sendall(b'{"op": "events"}\n')
            except BrokenPipeError:
                pass  # There were too many, and this one was refused by then.
    eventually(lambda: answered(tmp_path))


def test_what_a_killed_daemon_left_is_replaced(serve: Serve, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(tmp_path / "control.sock"))
    with pytest.raises(client.DaemonAbsentError):
        client.ask(tmp_path, {"op": "echo"})
    serve()
    assert client.ask(tmp_path, {"op": "echo"})["ok"]


def test_a_path_longer_than_a_socket_address_may_be_serves_too(
    serve: Serve, tmp_path: Path
) -> None:
    deep = tmp_path / ("x" * 120) / "state"
    deep.mkdir(parents=True)
    serve(deep)
    assert client.ask(deep, {"op": "echo"})["ok"]


def test_without_a_daemon_the_client_says_so_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CONNECT_SECONDS", 2 * PATIENCE_SECONDS)
    monkeypatch.setattr(client, "ANSWER_SECONDS", 2 * PATIENCE_SECONDS)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    before = time.monotonic()
    for place in (tmp_path, tmp_path / "absent", tmp_path / ("y" * 200)):
        with pytest.raises(client.DaemonAbsentError) as absent:
            client.status(place)
        assert str(place) in absent.value.message
    assert time.monotonic() - before < PATIENCE_SECONDS


def test_a_daemon_that_hangs_does_not_hang_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CONNECT_SECONDS", 0.5)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as hung:
        hung.bind(str(tmp_path / "control.sock"))
        hung.listen(1)
        with pytest.raises(client.DaemonSilentError, match="has not answered"):
            client.ask(tmp_path, {"op": "echo"}, answer_seconds=0.2)
        # Its queue of connections fills up, and connecting itself would wait.
        waiting = []
        for _ in range(3):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.setblocking(False)
            try:
                connection.connect(str(tmp_path / "control.sock"))
            except BlockingIOError:
                pass
            waiting.append(connection)
        before = time.monotonic()
        with pytest.raises(client.DaemonSilentError, match="does not accept"):
            client.ask(tmp_path, {"op": "echo"})
        assert 0.5 <= time.monotonic() - before < client.ANSWER_SECONDS
        for connection in waiting:
            connection.close()


def test_a_slow_answer_and_a_broken_one_are_told_apart(serve: Serve, tmp_path: Path) -> None:
    serve()
    with pytest.raises(client.DaemonSilentError, match="has not answered for 0 s"):
        client.ask(tmp_path, {"op": "sleep"}, answer_seconds=0.2)
    thread_answer: list[BaseException] = []

    def ask() -> None:
        try:
            client.ask(tmp_path, {"op": "silence"}, answer_seconds=1)
        except client.DaemonSilentError as error:
            thread_answer.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(PATIENCE_SECONDS)
    assert len(thread_answer) == 1


def test_a_result_comes_over_the_socket_as_it_was() -> None:
    report = SnapshotReport(
        "llama",
        False,
        info("llama", 3, labels={"release": "1.0"}, metrics={"loss": 0.5}, incomplete=("a\udcff",)),
        (TargetResult("disk", 3, 900), TargetResult("nas", 0, 0, "absent")),
        ("note",),
    )
    for result in (
        SnapshotResult("llama", "partial", report, "nas: absent", "", 3),
        SnapshotResult("llama", "done", SnapshotReport("llama", True, None, ())),
        SnapshotResult("llama", "failed", None, "boom", "hint", 5),
    ):
        assert decode_result(json.loads(json.dumps(encode_result(result)))) == result


def test_the_client_is_quick_to_import() -> None:
    heavy = ["structlog", "watchdog", "pydantic", "yaml", "boto3", "numpy", "rich", "cryptography"]
    program = (
        "import sys, backupd.daemon.client\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "[]\n", done.stderr
