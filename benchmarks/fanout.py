"""What a second target costs the daemon: its CPU time for a disk, and for a disk and S3.

    python -m benchmarks.fanout [--input NAME] [--repeat N]

NAME is one of the trained inputs. Its checkpoints arrive one after another, and each is stored
before the next one comes; the first is not counted, as it makes the daemon load its libraries. The
server runs on this machine; only the daemon's own time counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import inputs
from benchmarks.measure import environment, run
from benchmarks.s3 import BackupdAtS3, running
from tests.rigs.servers import S3Server

PLACES = (("disk",), ("disk", "s3"))
_TICKS = os.sysconf("SC_CLK_TCK")
_LONGEST_SECONDS = 120.0


class Daemon(BackupdAtS3):
    """backupd as systemd runs it, asked for snapshots by its command line."""

    def configuration(self) -> dict[str, object]:
        known = super().configuration()
        known["models"] = {
            "bench": {
                "path": str(self.source),
                "targets": dict.fromkeys(self.places, "all"),
                "schedule": "0 0 1 1 *",
                "settle": "1s",
            }
        }
        return known

    @contextmanager
    def running(self) -> Iterator[int]:
        """The daemon's process id, while it runs."""
        command = self.backupd("run")
        with open(self.home / "log", "wb") as log:
            process = subprocess.Popen(
                command.arguments,
                cwd=command.directory,
                env=environment(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self.until(lambda: "daemon" in self.ask("status"))
            yield process.pid
        finally:
            process.terminate()
            process.wait()

    def ask(self, *arguments: str) -> str:
        """What a command prints as JSON; empty where it fails."""
        command = self.backupd("--json", *arguments)
        return subprocess.run(
            command.arguments,
            cwd=command.directory,
            env=environment(command),
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()` is true. Raises TimeoutError."""
        deadline = time.monotonic() + _LONGEST_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError((self.home / "log").read_text()[-2000:])
            time.sleep(0.2)

    def is_stored(self, number: int) -> bool:
        """Whether so many snapshots are there, the newest on all targets."""
        snapshots = json.loads(self.ask("list", "bench") or "{}").get("snapshots", [])
        if len(snapshots) != number:
            return False
        newest = max(snapshots, key=lambda one: one["version"])
        return set(newest["targets"]) == set(self.places)


def cpu_seconds(pid: int) -> float:
    """What a process and its ended children have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(value) for value in fields[11:15]) / _TICKS


def measure(server: S3Server, work: Path, found: inputs.Input, places: tuple[str, ...]) -> float:
    """CPU seconds of the daemon for all checkpoints but the first."""
    Daemon.server, Daemon.bucket, Daemon.places = server, server.create_bucket(), places
    daemon = Daemon(work / "home", found.source)
    daemon.home.mkdir()
    run(daemon.init())
    arrivals = [move for moves in found.arrivals for move in moves]
    for origin, place in arrivals:
        os.rename(place, origin)
    try:
        os.rename(*arrivals[0])
        with daemon.running() as pid:
            daemon.until(lambda: daemon.is_stored(1))  # by itself, as the model is new to it
            before = cpu_seconds(pid)
            for number, (origin, place) in enumerate(arrivals[1:], start=2):
                os.rename(origin, place)
                daemon.ask("snapshot", "bench", "--wait")
                daemon.until(lambda wanted=number: daemon.is_stored(wanted))
            return cpu_seconds(pid) - before
    finally:
        for origin, place in arrivals:
            if origin.exists():
                os.rename(origin, place)
        shutil.rmtree(daemon.home)


def main() -> int:
    """Measure in turn and print a line for each; see the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fanout", description=__doc__)
    parser.add_argument("--input", default="finetune-fp32", choices=tuple(inputs.TRAINED))
    parser.add_argument("--repeat", type=int, default=3)
    chosen = parser.parse_args()
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    work = Path(tempfile.mkdtemp(prefix="fanout-", dir=base))
    taken: dict[tuple[str, ...], list[float]] = {places: [] for places in PLACES}
    try:
        found = inputs.build(chosen.input, work, size_bytes=0, cache=inputs.default_cache())
        with running("rgw") as (server, _):
            for _ in range(chosen.repeat):
                for places in PLACES:
                    taken[places].append(measure(server, work, found, places))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    medians = [statistics.median(seconds) for seconds in taken.values()]
    for (places, seconds), median in zip(taken.items(), medians, strict=True):
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"{' and '.join(places):12} {median:6.2f} CPU s ({spread})")
    print(f"ratio        {medians[1] / medians[0]:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
