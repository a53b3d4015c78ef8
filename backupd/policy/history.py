"""The history of a model: which version stands on which, and the picture of it. Pure.

A snapshot carries the versions that it stands on, as runs, so that the history stays known when
some of them are forgotten.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

Ancestry = tuple[tuple[int, int], ...]
"""Versions from the parent back to the first, as runs `(newest, oldest)` in descending order."""

MAX_RUNS = 256


def extended(ancestry: Ancestry, version: int) -> Ancestry:
    """The ancestry of a snapshot whose parent is `version`, and that one's own `ancestry`."""
    if ancestry and version == ancestry[0][0] + 1:
        return ((version, ancestry[0][1]), *ancestry[1:])
    return ((version, version), *ancestry)[:MAX_RUNS]


@dataclass(frozen=True, slots=True)
class Node:
    """A version that is listed; `parent` is 0 where it has none."""

    version: int
    parent: int
    ancestry: Ancestry = ()


def stands_on(node: Node, listed: Collection[int]) -> int:
    """The nearest version that a node stands on and that is still listed; 0 for none.

    Of a snapshot without ancestry, whose parent was forgotten, it is the newest before that: its
    history was a line, as only later backups know branches.
    """
    if node.parent in listed:
        return node.parent
    runs = node.ancestry or (((node.parent, 1),) if node.parent else ())
    for newest, oldest in runs:
        best = max((v for v in listed if oldest <= v <= newest and v < node.version), default=0)
        if best:
            return best
    return 0


@dataclass(frozen=True, slots=True)
class GraphLine:
    """A line of the picture: `graph` is drawn before what is told of `version`, 0 for nothing.

    `below` goes before further lines about the same version.
    """

    graph: str
    version: int = 0
    below: str = ""


def draw(nodes: Iterable[Node]) -> tuple[GraphLine, ...]:
    """The versions as a graph, the newest first, in the manner of `git log --graph`."""
    order = sorted(nodes, key=lambda node: node.version, reverse=True)
    listed = {node.version for node in order}
    edges = {node.version: stands_on(node, listed) for node in order}
    lanes: list[int] = []
    lines: list[GraphLine] = []
    for node in order:
        version = node.version
        if version not in lanes:
            lanes.append(version)
        first = lanes.index(version)
        while lanes.count(version) > 1:
            last = len(lanes) - 1 - lanes[::-1].index(version)
            lines.append(GraphLine(_join(len(lanes), first, last)))
            del lanes[last]
        graph = _row(len(lanes), {first: "*"})
        lanes[first] = edges[version]
        ended = {first: " "} if not lanes[first] else {}
        lines.append(GraphLine(graph, version, _row(len(lanes), ended)))
        if not lanes[first]:
            lines += _close_up(lanes, first)
    return tuple(lines)


def _row(count: int, marks: Mapping[int, str]) -> str:
    return " ".join(marks.get(lane, "|") for lane in range(count)).rstrip()


def _join(count: int, first: int, last: int) -> str:
    """`|/` from lane `last` into lane `first`; lanes behind it move up."""
    cells = [" "] * (2 * count)
    for lane in range(last):
        cells[2 * lane] = "|"
    for place in range(2 * first + 1, 2 * last - 1, 2):
        cells[place] = "_"
    for lane in range(last, count):
        cells[2 * lane - 1] = "/"
    return "".join(cells).rstrip()


def _close_up(lanes: list[int], gone: int) -> Sequence[GraphLine]:
    """Take out a lane that has come to its end; those behind it move up."""
    del lanes[gone]
    if gone >= len(lanes):
        return ()
    cells = [" "] * (2 * len(lanes) + 2)
    for lane in range(gone):
        cells[2 * lane] = "|"
    for lane in range(gone, len(lanes)):
        cells[2 * lane + 1] = "/"
    return (GraphLine("".join(cells).rstrip()),)
