"""`python -m benchmarks.scale`: an index of ten million blobs, and a prune of a million.

Each measurement is a process of its own, whose peak memory is what the kernel says of it.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import report

LOOKUPS = 1000
FRESH_BLOBS = 1_000_000

Figures = dict[str, float]


def open_and_look_up(root: Path, blobs: int, *, cached: bool) -> Figures:
    """Load the index and look up blobs all over it."""
    import random

    from benchmarks.scale_world import TARGET, ids_of, open_world

    with open_world(root) as installation:
        installation.standalone = not cached
        repository = installation.repository(TARGET)
        before_mib = _peak_mib()
        begin = time.perf_counter()
        index = repository.load_index(_refuse)
        opened = time.perf_counter()
        count = len(index)
        ids = [ids_of(random.randrange(blobs), 1).tobytes() for _ in range(LOOKUPS)]
        looked = time.perf_counter()
        for blob_id in ids:
            assert index.find(blob_id) is not None
        end = time.perf_counter()
    assert count == blobs
    figures = {"open s": opened - begin, "look-ups s": end - looked}
    return figures | {"both s": opened - begin + end - looked, "before MiB": before_mib}


def add_fresh(root: Path, blobs: int) -> Figures:
    """Add packs to the cached index as a writer does, and look for each before."""
    from benchmarks.scale_world import TARGET, make_tables, open_world

    with open_world(root) as installation:
        index = installation.repository(TARGET).load_index(_refuse)
        tables = list(make_tables(FRESH_BLOBS, first=blobs))
        begin = time.perf_counter()
        for table in tables:
            for at in range(4, 4 + 48 * table.table[0], 48):
                assert bytes(table.table[at : at + 32]) not in index
            index.add_fresh(table)
        end = time.perf_counter()
    return {"s": end - begin, "us a blob": (end - begin) * 1e6 / FRESH_BLOBS}


def rebuild_tables(root: Path, blobs: int) -> Figures:
    """Read the index without the cache and give every pack's table, as prune rewrites them."""
    from benchmarks.scale_world import BLOBS_A_PACK, TARGET, open_world

    with open_world(root) as installation:
        index, damaged = installation.repository(TARGET).read_index_objects()
        assert not damaged
        begin = time.perf_counter()
        packs = sum(1 for _ in index.tables())
        end = time.perf_counter()
    assert packs == -(-blobs // BLOBS_A_PACK)
    return {"s": end - begin}


def plan_prune(root: Path, blobs: int) -> Figures:
    """What a prune would do, of a repository with packs and snapshots."""
    from backupd.operations.prune import prune
    from benchmarks.scale_world import TARGET, later, open_world

    with open_world(root, ahead=later()) as installation:
        begin = time.perf_counter()
        plan = prune(installation, TARGET, dry_run=True)
        end = time.perf_counter()
    assert plan.packs_marked >= blobs // 8 // 10
    assert not any("missing" in note for note in plan.notes)
    return {"s": end - begin, "packs": plan.packs_total, "marked": plan.packs_marked}


def carry_out_prune(root: Path, blobs: int) -> Figures:
    """Mark what is not needed, and a day later delete it, with the requests of both.

    A target in a bucket deletes a thousand in a request; the figure is what that would cost.
    """
    from backupd.operations.prune import prune
    from benchmarks.scale_world import TARGET, later, open_world

    figures: Figures = {}
    requests: dict[str, int] = {}
    for name, days in (("mark", 0), ("delete", 2)):
        with open_world(root, ahead=later() + days * 86_400) as installation:
            begin = time.perf_counter()
            done = prune(installation, TARGET)
            figures[f"{name} s"] = time.perf_counter() - begin
            for kind, count in installation.traffic[TARGET].counts().requests.items():
                requests[kind] = requests.get(kind, 0) + count
    figures["deleted packs"] = done.packs_deleted
    singles = requests.pop("delete", 0) - done.packs_deleted
    for kind, count in requests.items():
        figures[f"{kind} requests"] = count
    figures["delete requests"] = singles + -(-done.packs_deleted // 1000)
    return figures


def _refuse(message: str) -> None:
    raise AssertionError(message)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


MEASUREMENTS: dict[str, Callable[[Path, int], Figures]] = {
    "open without a cache": lambda root, blobs: open_and_look_up(root, blobs, cached=False),
    "first open, cache written": lambda root, blobs: open_and_look_up(root, blobs, cached=True),
    "open from the cache": lambda root, blobs: open_and_look_up(root, blobs, cached=True),
    "a million fresh blobs on top": add_fresh,
    "tables of all packs": rebuild_tables,
    "plan of a prune": plan_prune,
    "a prune carried out": carry_out_prune,
}


def _measure(name: str, root: Path, blobs: int) -> Figures:
    command = [sys.executable, "-m", "benchmarks.scale", "--measure", name]
    command += ["--root", str(root), "--blobs", str(blobs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _medians(runs: Sequence[Figures]) -> Figures:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main(argv: Sequence[str]) -> int:
    """Build, measure, print a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--blobs", type=int, default=10_000_000)
    parser.add_argument("--prune-blobs", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure:
        figures = MEASUREMENTS[options.measure](options.root, options.blobs)
        print(json.dumps(figures | {"peak MiB": _peak_mib()}))
        return 0
    work = Path(tempfile.mkdtemp(prefix="backupd-scale-", dir=options.work))
    try:
        _run(work, options)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


def _run(work: Path, options: argparse.Namespace) -> None:
    from benchmarks.scale_world import build_index_only, build_with_snapshots, size_of

    print(", ".join(f"{key} {value}" for key, value in report.describe_machine().items()))
    print(f"\n| {options.blobs:,} blobs | figures (medians of {options.repeat}) |\n|---|---|")
    root = work / "index"
    build_index_only(root, options.blobs)
    for name in list(MEASUREMENTS)[:-2]:
        once = name.startswith("first")
        runs = [_measure(name, root, options.blobs) for _ in range(1 if once else options.repeat)]
        _print_row(name, _medians(runs))
    sizes = [size_of(root / part) / 2**20 for part in ("repository/index", "state/cache")]
    print(f"| index objects, cache on disk | {sizes[0]:.0f} MiB, {sizes[1]:.0f} MiB |")
    shutil.rmtree(root)
    root = work / "prune"
    build_with_snapshots(root, options.prune_blobs)
    runs = [_measure("plan of a prune", root, options.prune_blobs) for _ in range(options.repeat)]
    _print_row(f"plan of a prune of {options.prune_blobs:,} blobs", _medians(runs))
    _print_row("that prune carried out", _measure("a prune carried out", root, options.prune_blobs))


def _print_row(name: str, figures: Figures) -> None:
    cells = ", ".join(f"{label} {value:.4g}" for label, value in figures.items())
    print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
