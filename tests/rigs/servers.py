"""What rigs of real S3 servers share: where one is, starting it, sharing it, ending it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

ACCESS_KEY = "TESTACCESSKEY00001"
SECRET_KEY = "TestSecretKey0123456789abcdefghij"
GUEST_ACCESS_KEY = "TESTACCESSKEY00002"
GUEST_SECRET_KEY = "TestSecretKey0123456789abcdefghik"


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where a running server is, and the keys of a user who may do everything there."""

    endpoint_url: str
    access_key: str
    secret_key: str

    def client(self) -> Any:
        """A plain boto3 client, for looking behind the back of what is tested."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(
                s3={"addressing_style": "path"}, request_checksum_calculation="when_required"
            ),
        )

    def create_bucket(self, name: str = "", **options: Any) -> str:
        """A new bucket's name, made up where none is given."""
        bucket = name or f"test-{uuid.uuid4().hex[:16]}"
        self.client().create_bucket(Bucket=bucket, **options)
        return bucket

    def guest(self) -> S3Server:
        """The same server for another user, who may do only what bucket policies allow."""
        return replace(self, access_key=GUEST_ACCESS_KEY, secret_key=GUEST_SECRET_KEY)

    def write_credentials(self, path: Path) -> Path:
        """Write the keys as a credentials file (the form that AWS tools share); gives `path`."""
        path.write_text(
            f"[default]\naws_access_key_id = {self.access_key}\n"
            f"aws_secret_access_key = {self.secret_key}\n"
        )
        path.chmod(0o600)
        return path


# Starts a server in a fresh folder: the server, and the ids of its processes, first one first.
Start = Callable[[Path], tuple[S3Server, list[int]]]


@contextmanager
def shared_server(common: Path, name: str, start: Start) -> Iterator[S3Server]:
    """The server `name` of all processes that name the same folder `common`: the first starts
    it, the last to leave ends it."""
    state = common / f"{name}.json"
    with _locked(common / f"{name}.lock"):
        if state.exists():
            known = json.loads(state.read_text())
        else:
            folder = fast_folder(name)
            try:
                server, processes = start(folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            known = {
                "server": asdict(server),
                "folder": str(folder),
                "processes": processes,
                "users": 0,
            }
        known["users"] += 1
        state.write_text(json.dumps(known))
    try:
        yield S3Server(**known["server"])
    finally:
        with _locked(common / f"{name}.lock"):
            known = json.loads(state.read_text())
            known["users"] -= 1
            if known["users"]:
                state.write_text(json.dumps(known))
            else:
                state.unlink()
                kill(known["processes"])
                shutil.rmtree(known["folder"], ignore_errors=True)


def run_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of one test run have in common."""
    base = factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


def fast_folder(name: str) -> Path:
    """A fresh folder, in memory where there is room for it."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix=f"backupd-{name}-", dir=memory))


# Each has a port that the kernel gives to nobody else, by chance or for a connection that goes
# out, as long as this process lives. A server can have it nevertheless, as it shares an address
# with what does not listen (SO_REUSEADDR of socket(7)).
_HELD: list[socket.socket] = []


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on but the server that is told of them."""
    ports = []
    for _ in range(count):
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        _HELD.append(held)
        ports.append(held.getsockname()[1])
    return ports


def serve(command: list[str], log: Path, environment: Mapping[str, str] | None = None) -> int:
    """Start a server program with its output in `log`; its process id."""
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        ).pid


def listens(port: int) -> bool:
    """Whether something answers on `port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 180.0) -> None:
    """Return once `condition` holds; `what` says so in words."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds:.0f} s until {what}")
        time.sleep(0.1)


def kill(processes: list[int]) -> None:
    """Kill processes, the newest first, as `kill -9` does."""
    for process in reversed(processes):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
        try:
            os.waitpid(process, 0)
        except ChildProcessError:
            pass  # started by another process of the test run, which has it reaped at its end


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
