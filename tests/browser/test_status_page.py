"""The status page as a browser shows it: headless Chromium, on a wide and on a narrow screen."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.daemon.page import StatusPage
from tests.support.status import status_document
from tests.unit.daemon_fakes import LogLines


@pytest.fixture
def address() -> Iterator[str]:
    page = StatusPage(status_document, log=LogLines().log)
    page.apply("127.0.0.1:0")
    yield f"http://127.0.0.1:{page.port}/"
    page.close()


def browse(address: str, profile: Path, *options: str) -> str:
    """What Chromium prints for a page with these options."""
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--hide-scrollbars", f"--user-data-dir={profile}", *options, address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return done.stdout


def test_a_browser_shows_models_jobs_and_what_is_wrong(address: str, tmp_path: Path) -> None:
    shown = browse(address, tmp_path / "profile", "--dump-dom")
    text = re.sub(r"<[^>]+>", " ", shown)
    for part in ("Needs a look", "llama-ft", "3.00 GB of 8.00 GB", "nothing is mounted", "forget"):
        assert part in text, part
    assert "<title>✗ backupd on box1</title>" in shown


@pytest.mark.parametrize("width", [1280, 480])
def test_the_page_is_drawn_at_any_width(address: str, tmp_path: Path, width: int) -> None:
    picture = tmp_path / "page.png"
    options = (f"--window-size={width},900", f"--screenshot={picture}")
    browse(address, tmp_path / "profile", *options)
    data = picture.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and int.from_bytes(data[16:20]) == width
    assert len(data) > 10_000, "it is not blank"
