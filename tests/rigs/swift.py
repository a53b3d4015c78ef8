"""OpenStack Swift with its S3 face, on one node: a real server whose conditional put races.

From PyPI (the `test` extra). Start takes some three seconds, so one server is shared by all
processes of a pytest-xdist run; tests that kill a server start one of their own.
"""

from __future__ import annotations

import subprocess
import sys
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
    run_folder,
    serve,
    shared_server,
    wait_until,
)

_SERVICES = ("account", "container", "object")
_SWIFT = """\
[swift-hash]
swift_hash_path_suffix = suffix
swift_hash_path_prefix = prefix
[storage-policy:0]
name = one
default = yes
[swift-constraints]
max_header_size = 16384
"""
# An object server that does not get its word to the container's within a second leaves it for
# later, and until then listings lack the object: on a busy machine that came about by chance.
_STORAGE = """\
[DEFAULT]
conn_timeout = 120
node_timeout = 120
container_update_timeout = 120
swift_dir = {folder}
devices = {folder}/node
mount_check = false
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = root
log_name = {service}
log_address = {folder}/none
recon_cache_path = {folder}
[pipeline:main]
pipeline = {service}-server
[app:{service}-server]
use = egg:swift#{service}
"""
_PROXY = """\
[DEFAULT]
conn_timeout = 120
node_timeout = 120
swift_dir = {folder}
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = root
log_address = {folder}/none
[pipeline:main]
pipeline = catch_errors cache listing_formats s3api tempauth copy slo dlo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{absent}
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
s3_acl = false
allow_multipart_uploads = true
check_bucket_owner = false
[filter:tempauth]
use = egg:swift#tempauth
user_test_{access_key} = {secret_key} .admin
[filter:symlink]
use = egg:swift#symlink
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
allow_object_versioning = true
"""  # noqa: E501
# One process, as its imports are what takes the time.
_RINGS = """\
import sys
from swift.common.ring import RingBuilder
folder, *ports = sys.argv[1:]
for service, port in zip(("account", "container", "object"), map(int, ports)):
    builder = RingBuilder(4, 1, 0)
    device = {"id": 0, "region": 1, "zone": 1, "weight": 1, "ip": "127.0.0.1", "port": port,
              "replication_ip": "127.0.0.1", "replication_port": port, "device": "d1", "meta": ""}
    builder.add_dev(device)
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{service}.ring.gz")
"""


class Swift:
    """A proxy and the three kinds of storage server over `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = free_ports(5)
        self.processes: list[int] = []
        self.server = S3Server(
            f"http://127.0.0.1:{self._ports[0]}", f"test:{ACCESS_KEY}", SECRET_KEY
        )

    def create(self) -> None:
        """Write the configuration and start it; nothing is left running where it fails."""
        folder = self._folder
        (folder / "node" / "d1").mkdir(parents=True)
        (folder / "swift.conf").write_text(_SWIFT)
        for service, port in zip(_SERVICES, self._ports[1:4], strict=True):
            text = _STORAGE.format(folder=folder, port=port, service=service)
            (folder / f"{service}.conf").write_text(text)
        text = _PROXY.format(
            folder=folder,
            port=self._ports[0],
            absent=self._ports[4],
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
        )
        (folder / "proxy.conf").write_text(text)
        ports = [str(port) for port in self._ports[1:4]]
        done = subprocess.run(
            [sys.executable, "-c", _RINGS, str(folder), *ports],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"Swift's rings: {done.stderr[-2000:]}")
        self.restart()

    def kill(self) -> None:
        """Kill all of it at once."""
        kill(self.processes)
        self.processes = []

    def restart(self) -> None:
        """Start it, also after `kill`, and wait until all parts answer."""
        try:
            for service in (*_SERVICES, "proxy"):
                program = Path(sys.executable).with_name(f"swift-{service}-server")
                config = self._folder / f"{service}.conf"
                log = self._folder / f"{service}.log"
                command = [sys.executable, str(program), str(config)]
                self.processes.append(serve(command, log))
            for port in self._ports[:4]:
                wait_until(lambda port=port: listens(port), "Swift listens")
        except BaseException:
            self.kill()
            raise


def start(folder: Path) -> tuple[S3Server, list[int]]:
    """Start a server in `folder`, as `shared_server` wants it."""
    swift = Swift(folder)
    swift.create()
    return swift.server, swift.processes


@pytest.fixture(scope="session")
def swift_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The running Swift of this test run."""
    with shared_server(run_folder(tmp_path_factory), "swift", start) as server:
        yield server
