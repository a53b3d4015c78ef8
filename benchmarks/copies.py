"""A first copy to a NAS by `backupd sync`, beside `cp -r` of the same repository.

    python -m benchmarks.copies [--size MIB] [--repeat N] [--from DIR] [--to DIR]

The two folders should lie on two file systems, as a disk and a NAS do: within one, cp may share
blocks instead of copying them. In one run and in turn, after a first round that is not counted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Command, Cost, run
from benchmarks.peers import Backupd, find_program

MIB = 1 << 20


class BackupdWithNas(Backupd):
    """backupd with a local target and one on what stands for a NAS."""

    nas = Path()

    def configuration(self) -> dict[str, object]:
        """See `Backupd`; with the second target."""
        plain = super().configuration()
        nas = {"type": "nas", "path": str(self.nas), "require_mount": False}
        targets = {"disk": {"type": "local", "path": str(self.repository)}, "nas": nas}
        model = {"path": str(self.source), "targets": {"disk": "all", "nas": "all"}}
        return {**plain, "targets": targets, "models": {"bench": model}}

    def sync(self) -> Command:
        """The first copy."""
        return self.backupd("sync", "--from", "disk", "--to", "nas")


def must(command: Command | None) -> Cost:
    """The cost of a command that there is."""
    assert command is not None
    return run(command)


def measure(here: Path, there: Path, size: int, repeat: int) -> dict[str, list[Cost]]:
    """The costs of each program, one a round."""
    source = here / "model"
    source.mkdir()
    for number in range(8):
        with (source / f"part-{number}.bin").open("wb") as file:
            for _ in range(size // 8 // MIB):
                file.write(os.urandom(MIB))
    peer = BackupdWithNas(here / "home", source)
    peer.nas = there / "nas"
    found: dict[str, list[Cost]] = {"cp": [], "backupd sync": []}
    must(peer.init())
    # With the NAS away, the snapshot is on the disk alone; the exit code 3 says so.
    shutil.rmtree(peer.nas)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(peer.backupd("snapshot").arguments, check=False, **quiet)
    for number in range(repeat + 1):
        shutil.rmtree(peer.nas, ignore_errors=True)
        must(peer.init())
        synced = run(peer.sync())
        os.sync()
        copy = there / "copy"
        copied = run(Command((find_program("cp"), "-r", str(peer.repository), str(copy))))
        os.sync()
        shutil.rmtree(copy)
        if number:
            found["cp"].append(copied)
            found["backupd sync"].append(synced)
    return found


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.copies", description=__doc__)
    parser.add_argument("--size", type=int, default=2048, help="MiB that are copied (2048)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds (3)")
    parser.add_argument("--from", dest="here", type=Path, help="where the local target lies")
    parser.add_argument("--to", dest="there", type=Path, help="where the NAS is mounted")
    options = parser.parse_args(arguments)
    here = Path(tempfile.mkdtemp(prefix="backupd-copies-", dir=options.here))
    there = Path(tempfile.mkdtemp(prefix="backupd-copies-", dir=options.there))
    try:
        found = measure(here, there, options.size * MIB, options.repeat)
    finally:
        shutil.rmtree(here, ignore_errors=True)
        shutil.rmtree(there, ignore_errors=True)
    print(f"| {options.size} MiB | s | MB/s | CPU s | others took |\n|---|---:|---:|---:|---:|")
    for name, costs in found.items():
        seconds = statistics.median(cost.seconds for cost in costs)
        cpu = statistics.median(cost.cpu_seconds for cost in costs)
        others = statistics.median(cost.others_share for cost in costs)
        rate = options.size * MIB / 1e6 / seconds
        print(f"| {name} | {seconds:.2f} | {rate:,.0f} | {cpu:.2f} | {others:.0%} |")
    for what in ("seconds", "cpu_seconds"):
        copied, synced = (
            statistics.median(getattr(c, what) for c in costs) for costs in found.values()
        )
        print(f"{what}: sync at {copied / synced:.2f} of cp's rate")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
