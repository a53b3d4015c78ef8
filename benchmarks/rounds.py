"""The order of work: every program does all its verbs on an input, then the next one, N times over.

So A B A B, never A A B B: a machine that grows slower meanwhile does it to all alike.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.inputs import Input, moved
from benchmarks.measure import Command, Cost, disk_bytes, run
from benchmarks.peers import Peer

_STILL_SECONDS = 2.0


class WrongBytesError(Exception):
    """A program restored something else than what it was given."""


@dataclass(slots=True)
class Figures:
    """All that was measured of one program on one input: by verb, one value a round."""

    costs: dict[str, list[Cost]] = field(default_factory=lambda: defaultdict(list))
    stored_bytes: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))


def measure(
    given: Input, peers: Sequence[type[Peer]], *, work: Path, repeat: int, series: bool
) -> dict[str, Figures]:
    """Measure every peer on `given`, `repeat` times; with `series` also its growth step by step.

    Raises CommandFailedError, WrongBytesError.
    """
    figures = {peer.name: Figures() for peer in peers}
    for number in range(1, repeat + 1):
        for peer in peers:
            print(f"{given.name}: round {number} of {repeat}, {peer.name}", file=sys.stderr)
            _versions(given, peer, work, figures[peer.name], verify=number == 1)
            if series and given.arrivals and peer.keeps_versions:
                _series(given, peer, work, figures[peer.name], verify=number == 1)
    return figures


def _versions(
    given: Input, kind: type[Peer], work: Path, figures: Figures, *, verify: bool
) -> None:
    """First snapshot, unchanged one, restore, check; then a change and its snapshot."""
    with _Session(given, kind, work, figures) as session:
        peer = session.peer
        session.set_up()
        session.costs("first", peer.snapshot())
        session.stored("first")
        if kind.sees_changes:
            session.costs("unchanged", peer.snapshot())
        session.costs("list", peer.list())
        session.restore("restore", verify=verify)
        session.costs("check", peer.check())
        if kind.sees_changes:
            before = disk_bytes(peer.repository)
            with moved(given.change):
                # What was written this very moment is waited for, as more may come.
                time.sleep(_STILL_SECONDS)
                session.costs("changed", peer.snapshot())
            figures.stored_bytes["changed"].append(disk_bytes(peer.repository) - before)


def _series(given: Input, kind: type[Peer], work: Path, figures: Figures, *, verify: bool) -> None:
    """The input grows from nothing, a snapshot at each step; then the last one is restored."""
    everything = tuple(move for step in given.arrivals for move in step)
    taken_away = tuple((place, parked) for parked, place in everything)
    with moved(taken_away), _Session(given, kind, work, figures) as session:
        session.set_up()
        total = Cost(0.0, 0.0, 0, 0.0)
        arrived: list[tuple[Path, Path]] = []
        try:
            for step in given.arrivals:
                for parked, place in step:
                    os.rename(parked, place)
                    arrived.append((parked, place))
                total += run(session.peer.snapshot())
            figures.costs["series"].append(total)
            session.stored("series")
            session.restore("series restore", verify=verify)
        finally:
            for parked, place in arrived:
                os.rename(place, parked)


class _Session:
    """One fresh repository of one program, gone at the end of the block."""

    def __init__(self, given: Input, kind: type[Peer], work: Path, figures: Figures) -> None:
        self.given = given
        self.figures = figures
        self.folder = work / "session"
        self.peer = kind(self.folder / "home", given.source)

    def __enter__(self) -> _Session:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.peer.home.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder)

    def set_up(self) -> None:
        command = self.peer.init()
        if command is not None:
            run(command)

    def costs(self, verb: str, command: Command | None) -> None:
        if command is not None:
            self.figures.costs[verb].append(run(command))

    def stored(self, verb: str) -> None:
        self.figures.stored_bytes[verb].append(disk_bytes(self.peer.repository))

    def restore(self, verb: str, *, verify: bool) -> None:
        to = self.folder / "restored"
        self.costs(verb, self.peer.restore(to))
        if verify:
            difference = first_difference(self.given.source, self.peer.restored(to))
            if difference:
                raise WrongBytesError(f"{self.peer.name} did not restore {difference} as it was")
        shutil.rmtree(to)


def first_difference(expected: Path, found: Path) -> str:
    """The first file, by name, whose bytes differ or that only one side has; "" when none does."""
    names = _files(expected)
    odd = sorted(names ^ _files(found))
    if odd:
        return odd[0]
    for name in sorted(names):
        with open(expected / name, "rb") as left, open(found / name, "rb") as right:
            while True:
                block = left.read(1 << 20)
                if block != right.read(1 << 20):
                    return name
                if not block:
                    break
    return ""


def _files(folder: Path) -> set[str]:
    return {
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder)
        for name in names
    }
