"""Requests are counted by day and target, kept over processes, and priced."""

from __future__ import annotations

import json
import multiprocessing
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import pytest

from backupd.config.settings import Prices, S3Target
from backupd.operations.ledger import (
    AMAZON,
    KEPT_DAYS,
    LEDGER_NAME,
    DayOfRequests,
    add_to_ledger,
    cost,
    prices_of,
    read_ledger,
)
from backupd.targets.counting import Counts

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
DAY = 86_400.0


def counts(**requests: int) -> Counts:
    return Counts(MappingProxyType(requests), 1000, 10)


def test_what_is_counted_adds_up_by_day_and_target(tmp_path: Path) -> None:
    add_to_ledger(tmp_path, {"s3": counts(put=3, get=2, list=1)}, NOON)
    add_to_ledger(tmp_path, {"s3": counts(put=4, stat=5), "far": counts(delete=1)}, NOON + 60)
    add_to_ledger(tmp_path, {"s3": counts(put=1)}, NOON + DAY)
    assert read_ledger(tmp_path) == [
        DayOfRequests("far", "2026-11-20", delete=1, written_bytes=1000, read_bytes=10),
        DayOfRequests(
            "s3", "2026-11-20", put=7, get=2, stat=5, list=1, written_bytes=2000, read_bytes=20
        ),
        DayOfRequests("s3", "2026-11-21", put=1, written_bytes=1000, read_bytes=10),
    ]


def test_days_long_past_are_dropped(tmp_path: Path) -> None:
    add_to_ledger(tmp_path, {"s3": counts(put=1)}, NOON)
    add_to_ledger(tmp_path, {"s3": counts(put=1)}, NOON + (KEPT_DAYS + 1) * DAY)
    assert [entry.day for entry in read_ledger(tmp_path)] == ["2027-01-22"]


def _add_often(folder: Path) -> None:
    for _ in range(40):
        add_to_ledger(folder, {"s3": counts(put=1)}, NOON)


def test_processes_that_add_at_once_lose_no_count(tmp_path: Path) -> None:
    processes = [multiprocessing.Process(target=_add_often, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [entry.put for entry in read_ledger(tmp_path)] == [160]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"days": 3}', b'{"days": [{}]}', b"\xff", None])
def test_a_ledger_that_cannot_be_read_begins_anew(tmp_path: Path, content: bytes | None) -> None:
    if content is None:
        (tmp_path / LEDGER_NAME).mkdir()
        add_to_ledger(tmp_path, {"s3": counts(put=1)}, NOON)
        assert read_ledger(tmp_path) == []
        return
    (tmp_path / LEDGER_NAME).write_bytes(content)
    assert read_ledger(tmp_path) == []
    add_to_ledger(tmp_path, {"s3": counts(put=1)}, NOON)
    assert [entry.put for entry in read_ledger(tmp_path)] == [1]
    json.loads((tmp_path / LEDGER_NAME).read_text())


def test_where_nothing_was_asked_nothing_is_written(tmp_path: Path) -> None:
    add_to_ledger(tmp_path / "state", {"s3": Counts()}, NOON)
    assert not (tmp_path / "state").exists()


def test_requests_are_priced_by_the_configuration_or_as_amazons() -> None:
    day = DayOfRequests("s3", "2026-11-20", put=1000, get=1500, stat=500, list=2000, delete=9)
    assert cost(day, AMAZON) == pytest.approx(0.005 + 2 * 0.0004 + 2 * 0.005)
    own = Prices(put=1.0, get=0.5, list=0.0, currency="EUR")
    assert cost(day, own) == pytest.approx(2.0)
    assert prices_of(S3Target("s3", "bucket")) is AMAZON
    assert prices_of(S3Target("s3", "bucket", endpoint_url="https://x")) is None
    assert prices_of(S3Target("s3", "bucket", endpoint_url="https://x", prices=own)) == own
