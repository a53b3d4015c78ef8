from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backupd.daemon.logs import HIDDEN, LibraryHandler, make_log, redact_text
from tests.unit.daemon_fakes import LogLines


def test_a_line_is_json_behind_its_journald_priority() -> None:
    stream = io.StringIO()
    log = make_log(stream, terminal=False).bind(model="llama", target="disk")
    log.info("snapshot done", snapshot="llama@v3", duration_seconds=1.5, bytes=10)
    log.warning("two\nlines")
    log.error("bad \udcff name")
    log.debug("not told")
    lines = stream.getvalue().splitlines()
    assert [line[:3] for line in lines] == ["<6>", "<4>", "<3>"]
    first = json.loads(lines[0][3:])
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "level": "info",
        "event": "snapshot done",
        "model": "llama",
        "target": "disk",
        "snapshot": "llama@v3",
        "duration_seconds": 1.5,
        "bytes": 10,
    }
    assert json.loads(lines[1][3:])["event"] == "two\nlines"


def test_on_a_terminal_a_line_is_readable() -> None:
    stream = io.StringIO()
    make_log(stream, terminal=True).info("snapshot done", model="llama", files=3)
    text = stream.getvalue()
    assert "snapshot done" in text
    assert "model=llama" in text
    assert not text.startswith("<")


def test_a_traceback_stays_one_line_of_the_journal() -> None:
    lines = LogLines()
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        lines.log.exception("a bug")
    (line,) = lines.lines()
    assert "RuntimeError: boom" in line["exception"]


@pytest.mark.parametrize(
    "bound",
    [
        {"passphrase": "hunter2"},
        {"password": "hunter2"},
        {"key": "hunter2"},
        {"recovery_key": "hunter2"},
        {"aws_secret_access_key": "hunter2"},
        {"session_token": "hunter2"},
        {"credentials": ["hunter2"]},
        {"configuration": {"key": {"passphrase": "hunter2"}}},
        {"targets": [{"s3": {"secret_key": "hunter2"}}]},
        {"why": "aws_secret_access_key = hunter2"},
        {"why": "https://s3.example.org/b?X-Amz-Signature=hunter2&x=1"},
        {"why": "http://me:hunter2@proxy:3128/"},
        {"why": "Authorization: AWS4-HMAC-SHA256 Credential=A/b, Signature=hunter2"},
        {"why": ValueError("passphrase: 'hunter2' is wrong")},
        {"why": b"password=hunter2"},
    ],
)
def test_no_secret_is_ever_in_a_line(bound: dict[str, object]) -> None:
    lines = LogLines()
    lines.log.error("it failed", **bound)
    text = lines.stream.getvalue()
    assert "hunter2" not in text
    assert HIDDEN in text


def test_a_secret_in_a_traceback_or_message_is_hidden_too() -> None:
    lines = LogLines()
    try:
        raise RuntimeError("cannot use AKIAIOSFODNN7EXAMPLE with passphrase=hunter2")
    except RuntimeError as error:
        lines.log.exception(f"bad: {error}")
    text = lines.stream.getvalue()
    assert "hunter2" not in text
    assert "AKIA" not in text


@pytest.mark.parametrize(
    "text",
    [
        "the key file /etc/backupd/key cannot be read: No such file or directory",
        "llama@v12 has 3 keys: a, b, c",
        "s3://team-models/box1 does not answer",
    ],
)
def test_ordinary_words_are_left_alone(text: str) -> None:
    assert redact_text(text) == text


def test_warnings_of_libraries_come_into_the_log() -> None:
    lines = LogLines()
    logger = logging.getLogger("botocore.test")
    handler = LibraryHandler(lines.log)
    logger.addHandler(handler)
    try:
        logger.info("not this")
        logger.warning("retrying with password=%s", "hunter2")
    finally:
        logger.removeHandler(handler)
    (line,) = lines.lines()
    assert line["level"] == "warning"
    assert line["library"] == "botocore.test"
    assert "hunter2" not in line["event"]


_LIMITED = """
import ctypes, os, threading, sys
from backupd.config.settings import LimitsSettings
from backupd.daemon.limits import apply_limits
here, there = threading.Event(), threading.Event()
first = threading.Thread(target=lambda: (here.set(), there.wait()))
first.start(); here.wait()
problems = apply_limits(LimitsSettings(nice=15, io=sys.argv[1]))
assert problems == [], problems
numbers = {"x86_64": 252, "aarch64": 31, "riscv64": 31, "ppc64le": 274, "s390x": 283}
get = numbers[os.uname().machine]
libc = ctypes.CDLL(None)
later = threading.Thread(target=there.wait); later.start()
for thread in os.listdir("/proc/self/task"):
    print(os.getpriority(os.PRIO_PROCESS, int(thread)), libc.syscall(get, 1, int(thread)))
there.set()
"""


@pytest.mark.parametrize(("io_class", "value"), [("idle", 3 << 13), ("best-effort", (2 << 13) | 7)])
def test_every_thread_takes_little_of_the_box(io_class: str, value: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, io_class],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"15 {value}"] * 3


def test_what_may_not_be_set_is_said_and_not_fatal() -> None:
    program = (
        "from backupd.config.settings import LimitsSettings\n"
        "from backupd.daemon.limits import apply_limits\n"
        "print(apply_limits(LimitsSettings(nice=10)), apply_limits(LimitsSettings(nice=3)))"
    )
    # The tests may run at a low priority, which the child could not leave.
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_nice", sys.executable, "-c", program],
        preexec_fn=lambda: os.setpriority(os.PRIO_PROCESS, 0, 0),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    first, _, second = done.stdout.partition("] [")
    assert first == "["
    assert "limits.nice 3 was not set: Permission denied" in second
