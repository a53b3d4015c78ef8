"""A real S3 server for tests: one Ceph monitor, one object store in memory and one RADOS Gateway.

Debian's packages: radosgw ceph-mon ceph-osd ceph-common. Start takes some ten seconds, so one
server is shared by all processes of a pytest-xdist run; the last one that used it ends it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool", "ceph")

_CONFIG = """\
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}/0
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 2000
mon osd min in ratio = 0
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
osd memory target = 939524096
mon data avail crit = 1
mon data avail warn = 1
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
pid file =
log file = {folder}/log/$name.log
crash dir = {folder}/run
setuser match path =
[mon.a]
mon data = {folder}/mon
[osd.0]
osd data = {folder}/osd
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {folder}/rgw
# Without it the gateway hangs when authentication inside the cluster is off.
ms mon client mode = crc secure
rgw s3 auth use keystone = false
rgw enable usage log = false
rgw thread pool size = 64
"""


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

    def create_bucket(self, name: str = "") -> str:
        """A new bucket's name, made up where none is given."""
        bucket = name or f"test-{uuid.uuid4().hex[:16]}"
        self.client().create_bucket(Bucket=bucket)
        return bucket

    def write_credentials(self, path: Path) -> Path:
        """Write the keys as a credentials file (the form that AWS tools share); gives `path`."""
        path.write_text(
            f"[default]\naws_access_key_id = {self.access_key}\n"
            f"aws_secret_access_key = {self.secret_key}\n"
        )
        path.chmod(0o600)
        return path


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The running S3 server of this test run."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.fail(f"{missing[0]} is not installed: apt-get install $(cat .ci/apt-packages)")
    with shared_server(_run_folder(tmp_path_factory)) as server:
        yield server


@contextmanager
def shared_server(common: Path) -> Iterator[S3Server]:
    """The server of all processes that name the same folder `common`: the first starts it, the
    last to leave ends it."""
    state = common / "rgw.json"
    with _locked(common / "rgw.lock"):
        if state.exists():
            known = json.loads(state.read_text())
        else:
            folder = Path(tempfile.mkdtemp(prefix="backupd-rgw-", dir=_fast_folder()))
            server, processes = _start(folder)
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
        with _locked(common / "rgw.lock"):
            known = json.loads(state.read_text())
            known["users"] -= 1
            if known["users"]:
                state.write_text(json.dumps(known))
            else:
                state.unlink()
                _end(known["processes"])
                shutil.rmtree(known["folder"], ignore_errors=True)


def _run_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of one test run have in common."""
    base = factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


def _fast_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _start(folder: Path) -> tuple[S3Server, list[int]]:
    """Start a cluster of one in `folder`; the server, and the processes' ids to end it by."""
    port, mon_port = _free_ports(2)
    for name in ("mon", "osd", "run", "log"):
        (folder / name).mkdir()
    fsid = str(uuid.uuid4())
    config = folder / "ceph.conf"
    config.write_text(_CONFIG.format(fsid=fsid, folder=folder, port=port, mon_port=mon_port))
    environment = {**os.environ, "CEPH_CONF": str(config)}
    processes: list[int] = []

    def run(*command: str) -> str:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def serve(*command: str) -> None:
        log = (folder / "log" / f"{command[0]}.out").open("wb")
        with log:
            process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        processes.append(process.pid)

    try:
        monmap = str(folder / "monmap")
        address = f"[v2:127.0.0.1:{mon_port}]"
        run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
        run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
        serve("ceph-mon", "-i", "a", "-f")
        osd = str(uuid.uuid4())
        run("ceph", "--connect-timeout", "30", "osd", "new", osd)
        run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        serve("ceph-osd", "-i", "0", "-f")
        _wait(lambda: "1 up" in run("ceph", "osd", "stat"), "the object store comes up")
        access, secret = "TESTACCESSKEY00001", "TestSecretKey0123456789abcdefghij"
        run(
            "radosgw-admin",
            "user",
            "create",
            "--uid=test",
            "--display-name=test",
            f"--access-key={access}",
            f"--secret-key={secret}",
        )
        serve("radosgw", "-n", "client.rgw", "-f")
        _wait(lambda: _listens(port), "the gateway listens")
    except BaseException:
        _end(processes)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return S3Server(f"http://127.0.0.1:{port}", access, secret), processes


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait(condition: Any, what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds:.0f} s until {what}")
        time.sleep(0.1)


def _end(processes: list[int]) -> None:
    """Kill the cluster, newest part first; there is nothing in it that is worth a clean end."""
    for process in reversed(processes):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
        try:
            os.waitpid(process, 0)
        except ChildProcessError:
            pass  # started by another process of the test run, which has it reaped at its end


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as common, shared_server(Path(common)) as server:
        print(json.dumps(asdict(server)), flush=True)
        sys.stdin.read()
