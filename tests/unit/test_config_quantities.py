"""Durations, rates and percentages as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backupd.config.quantities import (
    format_duration,
    format_size,
    parse_duration,
    parse_percent,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("36h", 129600), ("2d", 172800), ("1w", 604800),
     ("1y", 31536000), ("1d12h", 129600), ("1.5h", 5400), ("1d 12h", 129600)],
)  # fmt: skip
def test_a_duration_is_a_number_with_a_unit_or_a_run_of_them(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "2", "d", "2 days", "-1d", "1mo", "2D", "201y", "1d-"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="; write a"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (5400, "1h30m"), (86400, "1d"), (1209600, "2w"), (31536000, "1y"),
     (90061, "1d1h1m1s")],
)  # fmt: skip
def test_a_duration_is_shown_in_its_shortest_form(seconds: int, text: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("text", "rate"),
    [("200MB/s", 200_000_000), ("50MiB/s", 52_428_800), ("1.5 GB/s", 1_500_000_000),
     ("800kb", 800_000), ("4096", 4096)],
)  # fmt: skip
def test_a_rate_is_bytes_per_second(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["fast", "200Mbit/s", "-1MB/s", "0", "", "MB/s", "1e9"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="; "):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("1.5 KiB", 1536), ("0", 0), ("5445044035.1MB", 5445044035100000),
     ("1025202525TB", 1025202525 * 10**12), ("9007199254740993B", 2**53 + 1)],
)  # fmt: skip
def test_a_size_is_bytes_and_reads_back_from_its_shortest_form(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_size(format_size(size)) == size


def test_a_percentage_lies_between_nothing_and_all() -> None:
    assert (parse_percent("5%"), parse_percent("0.5"), parse_percent("100%")) == (5.0, 0.5, 100.0)
    for text in ("101%", "-1", "nan", "five", ""):
        with pytest.raises(ValueError, match="is no percentage"):
            parse_percent(text)
