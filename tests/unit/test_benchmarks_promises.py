"""The benchmark holds what it measured to what was promised."""

from __future__ import annotations

from benchmarks.promises import promises


def cost(seconds: float, cpu: float) -> dict[str, float]:
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": 1, "others_share": 0.0}


def result(name: str, stored: int, seconds: float) -> dict[str, object]:
    return {
        "input": name,
        "title": "",
        "size_bytes": 1000,
        "peers": {
            "restic": {"costs": {"first": [cost(12, 20)]}, "stored_bytes": {"first": [950]}},
            "backupd": {
                "costs": {"first": [cost(seconds, 5)]},
                "stored_bytes": {"first": [stored]},
            },
        },
    }


def lines(*results: dict[str, object]) -> list[list[str]]:
    rows = [line for line in promises(results).splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_figures_are_held_to_floor_and_goal_by_their_medians() -> None:
    three_rounds = (result("scratch", 720, seconds) for seconds in (2.0, 3.0, 90.0))
    assert lines(*three_rounds) == [
        ["first snapshot, against restic", "scratch", "3.5x", "6x", "4.00x", "4.00x"],
        ["bytes, of raw", "scratch", "0.72", "0.65", "0.720", ""],
    ]


def test_a_format_is_held_to_the_series_it_was_made_of() -> None:
    table = lines(result("finetune-fp32", 600, 1), result("finetune-h5", 606, 1))
    assert ["bytes, against the safetensors series", "finetune-h5", "3 %", "1 %", "+1.0%", ""] in (
        table
    )


def test_nothing_is_said_of_what_was_not_measured() -> None:
    assert promises([result("small", 500, 1)]) == ""
