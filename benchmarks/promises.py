"""What was measured beside what was promised: a floor and a goal for each figure.

Works on the values that `python -m benchmarks --json FILE` leaves, so that rounds of several runs
can be put together: `python -m benchmarks.promises FILE...`.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import markdown_table

OURS = "backupd"
SERIES = "finetune-fp32"  # what the formats are held to


@dataclass(frozen=True, slots=True)
class Reached:
    """A figure as measured, and the same by CPU time, which other programs disturb less."""

    value: str
    by_cpu: str = ""


@dataclass(frozen=True, slots=True)
class Promise:
    """One line: of which input, what, at least (or at most) how much, and how it is worked out."""

    input: str
    title: str
    floor: str
    goal: str
    reach: Callable[[Results], Reached | None]


class Results:
    """All rounds of all inputs, by name."""

    def __init__(self, results: Sequence[Mapping[str, Any]]) -> None:
        self._peers: dict[str, dict[str, Any]] = {}
        self._sizes: dict[str, int] = {}
        for result in results:
            self._sizes[result["input"]] = result["size_bytes"]
            peers = self._peers.setdefault(result["input"], {})
            for name, found in result["peers"].items():
                kept = peers.setdefault(name, {"costs": {}, "stored_bytes": {}})
                for kind in ("costs", "stored_bytes"):
                    for verb, values in found[kind].items():
                        kept[kind].setdefault(verb, []).extend(values)

    def median(self, given: str, peer: str, verb: str, attribute: str) -> float | None:
        """The median of a verb's seconds or CPU seconds; None where it was not measured."""
        costs = self._peers.get(given, {}).get(peer, {}).get("costs", {}).get(verb)
        return statistics.median(cost[attribute] for cost in costs) if costs else None

    def times(self, given: str, verb: str, peer: str) -> Reached | None:
        """How many times as fast as `peer`."""
        ratios = []
        for attribute in ("seconds", "cpu_seconds"):
            theirs = self.median(given, peer, verb, attribute)
            ours = self.median(given, OURS, verb, attribute)
            if theirs is None or not ours:
                return None
            ratios.append(f"{theirs / ours:.2f}x")
        return Reached(*ratios)

    def seconds(self, given: str, verb: str) -> Reached | None:
        """The median of ours."""
        wall = self.median(given, OURS, verb, "seconds")
        cpu = self.median(given, OURS, verb, "cpu_seconds")
        return None if wall is None else Reached(f"{wall:.2f} s", f"{cpu:.2f} s")

    def share(self, given: str, verb: str = "first") -> float | None:
        """Stored bytes of raw."""
        stored = self._peers.get(given, {}).get(OURS, {}).get("stored_bytes", {}).get(verb)
        return statistics.median(stored) / self._sizes[given] if stored else None


def _times(given: str, verb: str, peer: str) -> Callable[[Results], Reached | None]:
    return lambda results: results.times(given, verb, peer)


def _share(given: str) -> Callable[[Results], Reached | None]:
    def reach(results: Results) -> Reached | None:
        share = results.share(given)
        return None if share is None else Reached(f"{share:.3f}")

    return reach


def _like_safetensors(given: str) -> Callable[[Results], Reached | None]:
    def reach(results: Results) -> Reached | None:
        share, held_to = results.share(given), results.share(SERIES)
        if share is None or not held_to:
            return None
        return Reached(f"{share / held_to - 1:+.1%}")

    return reach


PROMISES = (
    Promise("scratch", "first snapshot, against restic", "3.5x", "6x",
            _times("scratch", "first", "restic")),
    Promise("scratch", "first snapshot, against cp -r", "0.30x", "0.5x",
            _times("scratch", "first", "cp")),
    Promise("large", "restore of plain blobs, against restic", "3x", "5x",
            _times("large", "restore", "restic")),
    Promise(SERIES, "restore of deltas, against restic", "2x", "3.5x",
            _times(SERIES, "restore", "restic")),
    Promise("scratch", "restore of plain blobs and deltas, against restic", "2x", "3.5x",
            _times("scratch", "restore", "restic")),
    Promise("scratch", "check --read-data, against restic", "2x", "5x",
            _times("scratch", "check", "restic")),
    Promise("scratch", "unchanged snapshot, against restic", "2x", "0.3 s",
            _times("scratch", "unchanged", "restic")),
    Promise("scratch", "unchanged snapshot", "", "0.3 s",
            lambda results: results.seconds("scratch", "unchanged")),
    Promise("scratch", "bytes, of raw", "0.72", "0.65", _share("scratch")),
    Promise("finetune-bf16", "bytes, of raw", "0.40", "0.31", _share("finetune-bf16")),
    Promise(SERIES, "bytes, of raw", "0.68", "0.60", _share(SERIES)),
    *(
        Promise(f"finetune-{suffix}", "bytes, against the safetensors series", "3 %", "1 %",
                _like_safetensors(f"finetune-{suffix}"))
        for suffix in ("pt", "npz", "h5", "gguf")
    ),
    Promise("lora", "bytes, of raw: the base once, then adapters", "", "", _share("lora")),
)  # fmt: skip


def promises(results: Sequence[Mapping[str, Any]]) -> str:
    """The table of what is known of these results; empty where nothing is."""
    known = Results(results)
    body = []
    for promise in PROMISES:
        reached = promise.reach(known)
        if reached is not None:
            body.append(
                [promise.title, promise.input, promise.floor, promise.goal, reached.value,
                 reached.by_cpu]
            )  # fmt: skip
    if not body:
        return ""
    header = ["", "input", "floor", "goal", "reached", "by CPU time"]
    return "\n".join(["## What was promised", "", *markdown_table(header, body), ""])


def main(files: Sequence[str]) -> None:
    """Print the table of the results in these files together."""
    results = [r for file in files for r in json.loads(Path(file).read_text())["results"]]
    print(promises(results))


if __name__ == "__main__":
    main(sys.argv[1:])
