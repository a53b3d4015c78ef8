"""Sizes, times, names and tables as people read them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from backupd.cli import formatting
from backupd.cli.formatting import Column


@pytest.fixture
def in_utc_plus_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "XST-1")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_995, "10.0 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (1_234_567_890, "1.23 GB"),
        (10**21, "1000 EB"),
    ],
)
def test_a_size_has_three_digits_and_never_four(count: int, text: str) -> None:
    assert formatting.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (86400, "1 d"),
        (86400 * 4 + 3 * 3600, "4 d 3 h"),
    ],
)
def test_a_span_of_time_has_two_units_at_most(seconds: float, text: str) -> None:
    assert formatting.span(seconds) == text


def test_times_are_local_for_people_and_utc_for_machines(in_utc_plus_one: None) -> None:
    moment = 1_795_463_700.25  # 2026-11-23 19:15:00.25 UTC
    assert formatting.local_time(moment) == "2026-11-23 20:55"
    assert formatting.local_time(moment, precise=True) == "2026-11-23 20:55:00+01:00"
    assert formatting.utc_time(moment) == "2026-11-23T19:55:00.250Z"


def test_a_name_cannot_act_on_the_terminal() -> None:
    assert formatting.printable("a\x1b[31mb\nc") == "a\\x1b[31mb\\nc"
    assert formatting.printable(b"caf\xc3\xa9 \xff") == "café \\xff"


def test_a_listing_names_the_first_and_counts_the_rest() -> None:
    assert formatting.listing(["a", "b"]) == "a, b"
    assert formatting.listing(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_labels_without_a_value_stand_alone() -> None:
    assert formatting.pairs({"release": "", "by": "me"}) == "by=me, release"
    assert formatting.pairs({"loss": 0.123456789}) == "loss=0.123457"


COLUMNS = (
    Column("NAME"),
    Column("SIZE", right=True),
    Column("LABELS", shrink=6, drop=1),
    Column("TARGETS", shrink=8),
)
ROWS = [
    ("llama@v1", "1 B", "release=1.0, by=me", "disk,nas,s3"),
    ("llama@v10", "10 GB", "", "disk"),
]


def test_a_table_that_is_piped_is_never_cut() -> None:
    lines = formatting.table(COLUMNS, [("x" * 300, "1 B", "", "")], 0)
    assert lines[1] == "x" * 300 + "   1 B"


@pytest.mark.parametrize("width", range(32, 60))
def test_a_table_fits_whatever_width_it_is_given(width: int) -> None:
    lines = formatting.table(COLUMNS, ROWS, width)
    assert max(map(len, lines)) <= width
    assert all(name in "\n".join(lines) for name in ("llama@v1", "llama@v10", "10 GB"))


def test_a_narrow_table_cuts_labels_first_and_then_leaves_them_out() -> None:
    wide = formatting.table(COLUMNS, ROWS, 80)
    cut = formatting.table(COLUMNS, ROWS, 44)
    left_out = formatting.table(COLUMNS, ROWS, 30)
    assert "release=1.0, by=me" in wide[1]
    assert "…" in cut[1]
    assert "LABELS" not in left_out[0]
    assert "disk,nas,s3" in left_out[1]


def test_a_column_that_wraps_loses_no_word() -> None:
    columns = (Column("NAME"), Column("WHY", shrink=10, wrap=True))
    lines = formatting.table(columns, [("a", "last 1 of 5; within 2d"), ("b", "x")], 16)
    assert lines == [
        "NAME  WHY",
        "a     last 1 of",
        "      5; within",
        "      2d",
        "b     x",
    ]


def test_a_column_without_content_is_left_out() -> None:
    lines = formatting.table(COLUMNS, [("a", "1 B", "", "disk")], 80)
    assert lines[0] == "NAME  SIZE  TARGETS"


def test_wide_characters_are_counted_as_the_terminal_shows_them() -> None:
    assert formatting.text_width("模型") == 4
    assert formatting.text_width("e\u0301") == 1
    assert formatting.cut("模型模型", 5) == "模型…"
