"""Which version stands on which, also when some are forgotten, and how that is drawn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backupd.policy.history import MAX_RUNS, Ancestry, Node, draw, extended, stands_on


def drawn(parents: dict[int, int]) -> str:
    lines = draw(Node(version, parent) for version, parent in parents.items())
    return "\n".join(f"{line.graph} v{line.version}" if line.version else line.graph
                     for line in lines)  # fmt: skip


def test_a_line_is_drawn_as_a_line() -> None:
    assert drawn({1: 0, 2: 1, 3: 2}) == "* v3\n* v2\n* v1"


def test_branches_meet_where_they_began() -> None:
    assert drawn({1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 6: 4}) == "\n".join(
        ["* v6", "| * v5", "* | v4", "| * v3", "|/", "* v2", "* v1"]
    )
    assert drawn({1: 0, 2: 1, 3: 1, 4: 1, 5: 2}) == "\n".join(
        ["* v5", "| * v4", "| | * v3", "* | | v2", "|_|/", "|/", "* v1"]
    )


def test_a_history_that_began_twice_is_closed_up() -> None:
    assert drawn({1: 0, 2: 0, 3: 1, 4: 2}) == "\n".join(["* v4", "| * v3", "* | v2", " /", "* v1"])


def test_a_forgotten_parent_is_bridged_by_what_the_snapshot_remembers() -> None:
    runs: Ancestry = ()
    for version in (1, 2, 3, 7, 8):
        runs = extended(runs, version)
    assert runs == ((8, 7), (3, 1))
    node = Node(9, 8, runs)
    assert stands_on(node, {1, 2, 5, 6, 8}) == 8
    assert stands_on(node, {1, 2, 5, 6}) == 2, "v5 and v6 are of another branch"
    assert stands_on(node, {5, 6}) == 0
    assert stands_on(Node(9, 8), {5, 6}) == 6, "of an older snapshot its history was a line"
    assert stands_on(Node(9, 0), {5, 6}) == 0


@st.composite
def histories(draw_from: st.DrawFn) -> dict[int, tuple[int, Ancestry]]:
    """Versions in order, each on any earlier one, with what its snapshot remembers."""
    made: dict[int, tuple[int, Ancestry]] = {}
    for version in range(1, draw_from(st.integers(1, 25)) + 1):
        parent = draw_from(st.integers(0, version - 1))
        made[version] = (parent, extended(made[parent][1], parent) if parent else ())
    return made


@given(histories(), st.data())
def test_what_a_version_stands_on_is_its_nearest_listed_ancestor(
    history: dict[int, tuple[int, Ancestry]], data: st.DataObject
) -> None:
    listed = data.draw(st.sets(st.sampled_from(sorted(history)), min_size=1))
    for version in listed:
        truth = history[version][0]
        while truth and truth not in listed:
            truth = history[truth][0]
        parent, ancestry = history[version]
        assert stands_on(Node(version, parent, ancestry), listed) == truth


@given(histories())
def test_every_version_is_drawn_once_and_every_lane_ends_where_it_leads(
    history: dict[int, tuple[int, Ancestry]],
) -> None:
    lines = draw(Node(version, *known) for version, known in history.items())
    assert [line.version for line in lines if line.version] == sorted(history, reverse=True)
    assert all(line.graph.count("*") == bool(line.version) for line in lines)
    # Follow each star down to the next: a lane stays in its column, but for `/` to the left.
    places = {line.version: (row, line.graph.index("*")) for row, line in enumerate(lines)
              if line.version}  # fmt: skip
    for version, (parent, _) in history.items():
        if not parent:
            continue
        row, column = places[version]
        while row < places[parent][0]:
            row += 1
            graph = lines[row].graph.ljust(column + 1)
            if lines[row].version:
                assert graph[column] in "|*"
                continue
            if graph[column] == "|":
                continue
            assert graph[column - 1] == "/"
            column -= 2
            while column > 0 and graph[column - 1] == "_":
                column -= 2
        assert (row, column) == places[parent], (version, parent)


def test_the_memory_of_a_snapshot_is_bounded() -> None:
    runs: Ancestry = ()
    for version in range(1, 4 * MAX_RUNS, 2):
        runs = extended(runs, version)
    assert len(runs) == MAX_RUNS
    assert runs[0] == (4 * MAX_RUNS - 1, 4 * MAX_RUNS - 1)
