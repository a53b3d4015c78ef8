"""The status page over a real socket: what it shows, and to whom."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backupd.daemon.page import StatusPage
from backupd.daemon.page_html import render_page
from tests.support.status import status_document
from tests.unit.daemon_fakes import LogLines


@pytest.fixture
def lines() -> LogLines:
    return LogLines()


@pytest.fixture
def page(lines: LogLines) -> Iterator[StatusPage]:
    made = StatusPage(status_document, log=lines.log)
    made.apply("127.0.0.1:0")
    yield made
    made.close()


def ask(page: StatusPage, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, str]:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read().decode()


def test_the_page_names_models_states_targets_and_what_is_wrong(page: StatusPage) -> None:
    code, headers, text = ask(page, "/")
    assert code == 200 and headers["Content-Type"].startswith("text/html")
    for part in ("llama-ft", "v12", "Needs a look: bert, check s3", "nas: nothing is mounted"):
        assert part in text, part


def test_names_cannot_put_markup_into_the_page() -> None:
    document = status_document()
    document["models"][0]["error"] = "<script>alert(1)</script>"
    document["models"][0]["path"] = '/srv/"><img src=x>'
    text = render_page(document)
    assert "<script" not in text and "<img" not in text


def test_programs_get_the_document_and_the_metrics(page: StatusPage) -> None:
    code, _, text = ask(page, "/status.json")
    assert code == 200 and json.loads(text) == status_document()
    _, _, metrics = ask(page, "/metrics")
    assert 'backupd_model_state{model="bert",state="failed"} 1' in metrics
    assert 'backupd_upkeep_ok{job="check",target="s3"} 0' in metrics
    assert ask(page, "/healthz")[0] == 200


def test_nothing_else_is_there_and_nothing_can_be_changed(page: StatusPage) -> None:
    assert ask(page, "/../etc/passwd")[0] == 404
    assert ask(page, "/", method="POST")[0] == 501
    assert ask(page, "/", method="HEAD")[2] == ""


def test_a_name_of_somebody_elses_does_not_read_the_page(page: StatusPage) -> None:
    code, _, text = ask(page, "/status.json", Host="evil.example.org:9731")
    assert code == 421 and "llama" not in text
    assert ask(page, "/", Host="localhost:1234")[0] == 200
    assert ask(page, "/", Host="[::1]:1234")[0] == 200


def test_a_port_that_is_taken_is_said_and_the_daemon_goes_on(lines: LogLines) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        made = StatusPage(status_document, log=lines.log)
        made.apply(f"127.0.0.1:{taken.getsockname()[1]}")
        assert made.port == 0
    assert lines.has("no status page at 127.0.0.1")


def test_a_reload_moves_the_page_and_takes_it_away(page: StatusPage, tmp_path: Path) -> None:
    port = page.port
    page.apply("")
    assert page.port == 0
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    page.apply("127.0.0.1:0")
    assert ask(page, "/healthz")[0] == 200
