"""A real S3 server for tests: one Ceph monitor, one object store and one RADOS Gateway.

Debian's packages: radosgw ceph-mon ceph-osd ceph-common. Start takes some ten seconds, so one
server, with its objects in memory, is shared by all processes of a pytest-xdist run; the last one
that used it ends it. Tests that kill a server start one of their own, with its objects in files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.rigs.servers import (
    ACCESS_KEY,
    SECRET_KEY,
    S3Server,
    free_ports,
    kill,
    listens,
    run_folder,
    serve,
    shared_server,
    wait_until,
)

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
osd objectstore = {store}
memstore device bytes = 17179869184
bluestore block size = 4294967296
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
# Encryption by the server, which it allows over TLS alone otherwise.
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = key-1=YmluCmJvb3N0CmJvb3N0LWJ1aWxkCmNlcGguY29uZgo=
"""


class Rgw:
    """A cluster of one in `folder`; `store` is `memstore`, or `bluestore` to outlive a kill."""

    def __init__(self, folder: Path, store: str = "memstore") -> None:
        self._folder = folder
        self._port, self._mon_port = free_ports(2)
        config = folder / "ceph.conf"
        config.write_text(
            _CONFIG.format(
                fsid=uuid.uuid4(),
                folder=folder,
                port=self._port,
                mon_port=self._mon_port,
                store=store,
            )
        )
        self._environment = {"CEPH_CONF": str(config)}
        self.processes: list[int] = []
        self.server = S3Server(f"http://127.0.0.1:{self._port}", ACCESS_KEY, SECRET_KEY)

    def create(self) -> None:
        """Make the cluster and its user, and start it; nothing is left running where it fails."""
        for name in ("mon", "osd", "run", "log"):
            (self._folder / name).mkdir()
        try:
            monmap = str(self._folder / "monmap")
            address = f"[v2:127.0.0.1:{self._mon_port}]"
            self._run("monmaptool", "--create", "--fsid", self._fsid(), "--addv", "a", address,
                      monmap)  # fmt: skip
            self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
            self._serve("ceph-mon", "-i", "a", "-f")
            osd = str(uuid.uuid4())
            self._run("ceph", "--connect-timeout", "150", "osd", "new", osd)
            self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
            self._serve("ceph-osd", "-i", "0", "-f")
            wait_until(lambda: "1 up" in self._run("ceph", "osd", "stat"), "the object store is up")
            for user, server in (("test", self.server), ("box", self.server.guest())):
                self._run(
                    "radosgw-admin",
                    "user",
                    "create",
                    f"--uid={user}",
                    f"--display-name={user}",
                    f"--access-key={server.access_key}",
                    f"--secret-key={server.secret_key}",
                )
            # A class of that name, which is as quick as any: `rigs.glacier` makes it slow.
            placement = ["--placement-id=default-placement", "--storage-class=GLACIER"]
            admin = ("radosgw-admin",)
            self._run(*admin, "zonegroup", "placement", "add", *placement)
            pool = "--data-pool=default.rgw.buckets.data"
            self._run(*admin, "zone", "placement", "add", *placement, pool)
            self._serve_gateway()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill all of it at once, as a box does that loses its power supply's plug."""
        kill(self.processes)
        self.processes = []

    def restart(self) -> None:
        """Start it again after `kill`, and wait until the gateway answers."""
        self._serve("ceph-mon", "-i", "a", "-f")
        self._serve("ceph-osd", "-i", "0", "-f")
        self._serve_gateway()

    def _serve_gateway(self) -> None:
        self._serve("radosgw", "-n", "client.rgw", "-f")
        wait_until(lambda: listens(self._port), "the gateway listens")

    def _fsid(self) -> str:
        lines = (self._folder / "ceph.conf").read_text().splitlines()
        return next(line for line in lines if line.startswith("fsid")).split()[-1]

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            env={**os.environ, **self._environment},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def _serve(self, *command: str) -> None:
        log = self._folder / "log" / f"{command[0]}.out"
        self.processes.append(serve([*command], log, self._environment))


def refuse_missing_programs() -> None:
    """Fail the test where Debian's packages are not installed."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.fail(f"{missing[0]} is not installed: apt-get install $(cat .ci/apt-packages)")


def start(folder: Path) -> tuple[S3Server, list[int]]:
    """Start a server in `folder`, as `shared_server` wants it."""
    rgw = Rgw(folder)
    rgw.create()
    return rgw.server, rgw.processes


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The running S3 server of this test run."""
    refuse_missing_programs()
    with shared_server(run_folder(tmp_path_factory), "rgw", start) as server:
        yield server


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as common, shared_server(Path(common), "rgw", start) as one:
        print(json.dumps(asdict(one)), flush=True)
        sys.stdin.read()
