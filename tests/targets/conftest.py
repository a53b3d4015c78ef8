"""The targets that the contract is held against: each kind, in each way it can work."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backupd.config.settings import LocalTarget, NasTarget, S3Target
from backupd.targets.bandwidth import TokenBucket
from backupd.targets.base import Target
from backupd.targets.counting import Traffic
from backupd.targets.local import FolderTarget, create_folder
from backupd.targets.memory import MemoryTarget
from backupd.targets.open import open_target, prepare_target
from tests.rigs.servers import S3Server


@contextmanager
def mounted_tmpfs(folder: Path, options: str = "size=256m") -> Iterator[Path]:
    """`folder` with a small tmpfs mounted on it for the length of the block."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def s3_settings(server: S3Server, tmp_path: Path, bucket: str, **changes: Any) -> S3Target:
    """Settings for `bucket` on the test server, with the keys in a file."""
    values: dict[str, Any] = {
        "prefix": "box1/models",
        "endpoint_url": server.endpoint_url,
        "credentials_file": server.write_credentials(tmp_path / "credentials"),
        "path_style": True,
        **changes,
    }
    return S3Target("s3", bucket, **values)


@pytest.fixture(scope="session")
def bucket(s3_server: S3Server) -> str:
    """One bucket for all tests; each takes a prefix of its own."""
    return s3_server.create_bucket()


def _no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.fixture(scope="session")
def swift_bucket(swift_server: S3Server) -> str:
    """As `bucket`, on Swift."""
    return swift_server.create_bucket()


# Its whole suite takes a minute there; what is special about it is in the plain run.
_SWIFT = pytest.param("swift", marks=pytest.mark.torture)


@pytest.fixture(params=["memory", "local", "nas", "s3", _SWIFT])
def target(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Target]:
    """Each kind of target, empty and wrapped as the daemon has it."""
    with made_target(request.param, request, tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture(params=["memory", "local", "local-without-links", "nas", "s3", _SWIFT])
def creating_target(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Target]:
    """As `target`, in every way that a kind has of creating an object only where it is absent."""
    with made_target(request.param, request, tmp_path, monkeypatch) as made:
        yield made


@contextmanager
def made_target(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Target]:
    wrappers: dict[str, Any] = {
        "upload": TokenBucket(1e12),
        "traffic": Traffic(),
        "stop": threading.Event(),
    }
    made: Target
    if kind == "memory":
        made = MemoryTarget()
        yield made
    elif kind.startswith("local"):
        settings = LocalTarget("local", tmp_path / "disk" / "models")
        prepare_target(settings)
        if kind == "local-without-links":
            monkeypatch.setattr(os, "link", _no_links)
        made = open_target(settings, **wrappers)
        yield made
    elif kind == "nas":
        with mounted_tmpfs(tmp_path / "nas") as mount:
            share = NasTarget("nas", mount / "models")
            prepare_target(share)
            made = open_target(share, **wrappers)
            yield made
    else:
        # Swift's conditional put is not atomic, so it stands for all where writers go by claims.
        server: S3Server = request.getfixturevalue(f"{kind}_server")
        bucket: str = request.getfixturevalue("bucket" if kind == "s3" else "swift_bucket")
        place = s3_settings(server, tmp_path, bucket, prefix=f"contract/{tmp_path.name}")
        made = open_target(place, **wrappers)
        yield made
    made.close()


@pytest.fixture
def folder_target(tmp_path: Path) -> Iterator[FolderTarget]:
    """A folder target in `tmp_path / "disk"`."""
    create_folder("disk", tmp_path / "disk")
    made = FolderTarget("disk", tmp_path / "disk")
    yield made
    made.close()
