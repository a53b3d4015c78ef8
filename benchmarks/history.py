"""What a long history costs where the store is far: backupd and restic at a real S3 server.

    python -m benchmarks.history [--snapshots N] [--repeat N]

A small file changes N times and is stored each time by both. Then, in turn: the snapshots are
listed, the file changes once more and is stored, the newest is restored, the repository is checked
(its structure, not the data), and all of it is listed once more without what the program keeps
near at hand, as on a new machine. What counts is the number of requests, and how many are on their
way at once; this server takes some 40 ms for each answer that has a body, as one far away does,
unless what it sends is acknowledged at once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from benchmarks.measure import Command, run
from benchmarks.peers import Peer
from benchmarks.s3 import BackupdAtS3, ResticAtS3, Table, running
from tests.rigs.servers import fast_folder

_FILE_BYTES = 64 * 1024


class ResticHistory(ResticAtS3):
    """restic; without `--read-data` its check reads the structure alone."""

    def check(self) -> Command:
        return self.restic("check")

    def forget_what_is_near(self) -> None:
        """As on a new machine."""
        shutil.rmtree(self.home / "cache")


class BackupdHistory(BackupdAtS3):
    """backupd; its check likewise."""

    def check(self) -> Command:
        return self.backupd("check")

    def forget_what_is_near(self) -> None:
        """As on a new machine."""
        shutil.rmtree(self.home / "state" / "cache")


def measure(peer: ResticHistory | BackupdHistory, snapshots: int, repeat: int, to: Table) -> None:
    """Make the history, then the seconds of each verb, `repeat` times."""
    _must(peer.init())
    begun = time.perf_counter()
    for _ in range(snapshots):
        _store(peer)
    to.add(f"each of {snapshots} snapshots", peer.name, (time.perf_counter() - begun) / snapshots)
    for _ in range(repeat):
        to.add("list", peer.name, _must(peer.list()))
        to.add("one more snapshot", peer.name, _store(peer))
        out = peer.home / "out"
        to.add("restore", peer.name, _must(peer.restore(out)))
        shutil.rmtree(out)
        to.add("check", peer.name, _must(peer.check()))
        peer.forget_what_is_near()
        to.add("list, on a new machine", peer.name, _must(peer.list()))


def _store(peer: Peer) -> float:
    (peer.source / "weights.bin").write_bytes(os.urandom(_FILE_BYTES))
    return _must(peer.snapshot())


def _must(command: Command | None) -> float:
    if command is None:
        raise RuntimeError("a program lacks a verb that is measured")
    return run(command).seconds


def main() -> int:
    """Measure in turn and print the medians; see the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("--snapshots", type=int, default=100, help="how long the history is (100)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds of the verbs (3)")
    options = parser.parse_args()
    if why := ResticHistory.missing():
        print(why, file=sys.stderr)
        return 2
    work = fast_folder("benchmark-history")
    table = Table()
    try:
        with running("rgw") as (server, _):
            for kind in (ResticHistory, BackupdHistory):
                kind.server, kind.bucket = server, server.create_bucket()
                peer = kind(_fresh(work / kind.name), _fresh(work / "source"))
                measure(peer, options.snapshots, options.repeat, table)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(table.markdown(f"Seconds, {options.snapshots} snapshots, rgw"))
    return 0


def _fresh(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
