"""Turns figures into tables and JSON: medians with minimum and maximum, and ratios to one peer.

A ratio above 1 is always the better one: faster, smaller, or leaner than the peer it is held to.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.inputs import Input
from benchmarks.measure import Cost
from benchmarks.rounds import Figures

MIB = 1 << 20
BUSY_SHARE = 0.05

VERBS = {
    "first": "first snapshot",
    "unchanged": "unchanged snapshot",
    "changed": "one changed of eight",
    "restore": "restore",
    "check": "check with data",
    "list": "list",
    "series": "snapshots as it grew",
    "series restore": "restore of the last of them",
}
MEMORY_AND_CPU = ("first", "restore", "check")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: a value for each round, of each peer that has the verb."""

    title: str
    unit: str
    digits: int
    values: Mapping[str, Sequence[float]]


def rows(given: Input, figures: Mapping[str, Figures]) -> list[Row]:
    """What is told of one input, in the order of the table."""

    def of_costs(verb: str, title: str, unit: str, digits: int, attribute: str, per: int) -> Row:
        return Row(
            title,
            unit,
            digits,
            {
                name: [getattr(cost, attribute) / per for cost in found.costs[verb]]
                for name, found in figures.items()
                if found.costs.get(verb)
            },
        )

    def of_bytes(verb: str, title: str) -> Row:
        return Row(
            title,
            "of raw",
            4,
            {
                name: [stored / given.size_bytes for stored in found.stored_bytes[verb]]
                for name, found in figures.items()
                if found.stored_bytes.get(verb)
            },
        )

    table = [of_costs(verb, title, "s", 2, "seconds", 1) for verb, title in VERBS.items()]
    table.append(of_bytes("first", "stored by the first snapshot"))
    table.append(of_bytes("changed", "stored by the changed one"))
    table.append(of_bytes("series", "stored as it grew"))
    table += [
        of_costs(verb, f"peak memory, {VERBS[verb]}", "MiB", 0, "peak_bytes", MIB)
        for verb in MEMORY_AND_CPU
    ]
    table += [
        of_costs(verb, f"CPU time, {VERBS[verb]}", "s", 2, "cpu_seconds", 1)
        for verb in MEMORY_AND_CPU
    ]
    return [row for row in table if row.values]


def markdown(
    given: Input,
    figures: Mapping[str, Figures],
    *,
    against: Sequence[str],
    machine: Mapping[str, object],
) -> str:
    """The tables of one input: ratios to each peer of `against`, then what was measured."""
    table = rows(given, figures)
    names = list(figures)
    lines = [f"## {given.name}: {given.title}, {given.size_bytes / MIB:,.0f} MiB", ""]
    for reference in against:
        held = [row for row in table if reference in row.values]
        if held:
            lines += [
                f"Times better than {reference} (above 1 is better):",
                "",
                *markdown_table(
                    ["", *names], [[row.title, *_ratios(row, names, reference)] for row in held]
                ),
                "",
            ]
    lines += [
        "Measured: median (minimum to maximum):",
        "",
        *markdown_table(
            ["", *names],
            [[f"{row.title}, {row.unit}", *_spread(row, names)] for row in table],
        ),
        "",
    ]
    busy = others_share(figures)
    if busy > BUSY_SHARE:
        lines += [
            f"The machine was not quiet: other programs took {busy:.0%} of its CPU time.",
            "",
        ]
    lines.append(", ".join(f"{key} {value}" for key, value in machine.items()))
    return "\n".join(lines) + "\n"


def others_share(figures: Mapping[str, Figures]) -> float:
    """The share of CPU time that went to programs that were not measured, over all commands."""
    total = Cost(0.0, 0.0, 0, 0.0)
    for found in figures.values():
        for costs in found.costs.values():
            total = sum(costs, start=total)
    return total.others_share


def as_json(given: Input, figures: Mapping[str, Figures]) -> dict[str, object]:
    """Every single value, for those who compute with it."""
    return {
        "input": given.name,
        "title": given.title,
        "size_bytes": given.size_bytes,
        "peers": {
            name: {
                "costs": {verb: [asdict(c) for c in costs] for verb, costs in found.costs.items()},
                "stored_bytes": dict(found.stored_bytes),
            }
            for name, found in figures.items()
        },
    }


def describe_machine() -> dict[str, object]:
    """Processor, cores, kernel and Python, as the reader of a table needs them."""
    processor = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
            break
    return {
        "processor": processor or platform.machine(),
        "cores": os.cpu_count() or 1,
        "linux": platform.release(),
        "python": platform.python_version(),
    }


def _ratios(row: Row, names: Sequence[str], against: str) -> list[str]:
    reference = statistics.median(row.values[against])
    cells = []
    for name in names:
        value = statistics.median(row.values[name]) if name in row.values else 0.0
        cells.append(f"{reference / value:.2f}" if value else "")
    return cells


def _spread(row: Row, names: Sequence[str]) -> list[str]:
    cells = []
    for name in names:
        values = row.values.get(name, ())
        if not values:
            cells.append("")
            continue
        shown = [
            f"{value:,.{row.digits}f}"
            for value in (statistics.median(values), min(values), max(values))
        ]
        cells.append(shown[0] if len(set(shown)) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})")
    return cells


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; all columns but the first are set to the right."""
    widths = [max(len(line[at]) for line in (header, *body)) for at in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = cells
        padded = [first.ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join(
        "-" * (width + 2) if at == 0 else "-" * (width + 1) + ":" for at, width in enumerate(widths)
    )
    return [line(header), rule + "|", *(line(cells) for cells in body)]
