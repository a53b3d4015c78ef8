from __future__ import annotations

import itertools
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.daemon.schedule import (
    Reason,
    Schedule,
    Watched,
    next_due,
    retry_delay_seconds,
    stale_since,
    why_due,
    why_scan,
)
from backupd.daemon.state import JobRecord, TargetRecord

QUARTERS = Schedule("*/15 * * * *", "UTC")
DAY = 86_400.0


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def runs(schedule: Schedule, begin: float, end: float) -> list[float]:
    found = []
    while (begin := schedule.next_after(begin)) <= end:
        found.append(begin)
    return found


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Europe/Berlin", "2026-03-28"),
        ("Europe/Berlin", "2026-10-24"),
        ("America/New_York", "2026-03-07"),
        ("America/New_York", "2026-10-31"),
        ("Australia/Lord_Howe", "2026-04-04"),
        ("Australia/Lord_Howe", "2026-10-03"),
        ("Asia/Kolkata", "2026-01-01"),
    ],
)
def test_every_quarter_of_an_hour_is_every_quarter_of_an_hour_when_clocks_change(
    zone: str, day: str
) -> None:
    begin = at(day, zone)
    found = runs(Schedule("*/15 * * * *", zone), begin, begin + 3 * DAY)
    assert {late - early for early, late in itertools.pairwise(found)} == {900.0}


@pytest.mark.parametrize("cron", ["0 0 * * *", "30 2 * * *", "15 1 * * *", "59 23 * * *"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_a_daily_run_leaves_no_day_out_when_clocks_change(cron: str, zone: str) -> None:
    found = runs(Schedule(cron, zone), at("2026-01-01"), at("2027-01-01"))
    days = [datetime.fromtimestamp(moment, ZoneInfo(zone)).date() for moment in found]
    gaps = {(late - early).days for early, late in itertools.pairwise(days)}
    assert gaps <= {0, 1}
    assert len(set(days)) >= 365


def test_a_run_in_the_hour_that_is_left_out_comes_an_hour_later() -> None:
    schedule = Schedule("30 2 * * *", "Europe/Berlin")
    found = schedule.next_after(at("2026-03-29T00:00:00", "Europe/Berlin"))
    assert found == at("2026-03-29T03:30:00", "Europe/Berlin")


def test_a_schedule_counts_in_its_own_time_zone() -> None:
    begin = at("2026-07-01T00:00:00")
    assert Schedule("0 9 * * *", "Asia/Tokyo").next_after(begin) == at("2026-07-02T00:00:00")
    assert Schedule("0 9 * * *", "America/New_York").next_after(begin) == at("2026-07-01T13:00:00")


def test_without_a_time_zone_the_box_s_own_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        found = Schedule("0 9 * * *").next_after(at("2026-07-01T00:00:00"))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found == at("2026-07-01T13:00:00")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["*/15 * * * *", "0 */2 * * *", "30 2 * * *", "0 9-17 * * mon-fri"]),
    st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca"]),
    st.floats(at("2025-06-01"), at("2027-06-01")),
)
def test_the_next_run_is_the_first_minute_after_that_the_schedule_names(
    cron: str, zone: str, moment: float
) -> None:
    from backupd.policy.cron import parse_cron

    found = Schedule(cron, zone).next_after(moment)
    assert found > moment
    parsed = parse_cron(cron)
    minute = math.floor(moment / 60) * 60 + 60
    # Slowly: the first of the following minutes whose wall clock the schedule names.
    for step in range(60 * 24 * 4):
        wall = datetime.fromtimestamp(minute + 60 * step, UTC).astimezone(ZoneInfo(zone))
        if parsed.on(wall) and wall.hour in parsed.hours and wall.minute in parsed.minutes:
            slow = minute + 60 * step
            break
    # Never later, and earlier only by what a change of the clocks left out.
    assert found <= slow
    if found < slow:
        local = datetime.fromtimestamp(found, ZoneInfo(zone))
        assert local.utcoffset() != (local - timedelta(hours=2)).utcoffset() or (
            datetime.fromtimestamp(found - 7200, ZoneInfo(zone)).utcoffset() != local.utcoffset()
        )


def test_a_model_that_never_ran_is_due_at_once() -> None:
    now = at("2026-07-01T10:07:00")
    record = JobRecord(first_seen=now)
    assert why_due(QUARTERS, record, now) is Reason.FIRST
    assert next_due(QUARTERS, record, now) == now


def test_upkeep_that_never_ran_waits_for_its_time() -> None:
    now = at("2026-07-01T10:07:00")
    record = JobRecord(first_seen=now)
    assert why_due(QUARTERS, record, now, first=False) is None
    assert next_due(QUARTERS, record, now, first=False) == at("2026-07-01T10:15:00")
    later = at("2026-07-01T10:15:01")
    assert why_due(QUARTERS, record, later, first=False) is Reason.TICK


def test_a_run_missed_while_the_box_was_off_is_caught_up_once() -> None:
    record = JobRecord(last_run=at("2026-07-01T10:00:03"))
    assert why_due(QUARTERS, record, at("2026-07-01T10:14:59")) is None
    assert why_due(QUARTERS, record, at("2026-07-01T10:15:00")) is Reason.TICK
    morning = at("2026-07-02T08:07:00")
    assert why_due(QUARTERS, record, morning) is Reason.MISSED
    # However many were missed: after one run the next is the next of the schedule.
    after = replace(record, last_run=morning)
    assert why_due(QUARTERS, after, morning + 1) is None
    assert next_due(QUARTERS, after, morning) == at("2026-07-02T08:15:00")


def test_a_clock_that_was_set_back_does_not_stop_the_schedule() -> None:
    now = at("2026-07-01T10:00:00")
    assert why_due(QUARTERS, JobRecord(last_run=now + 40 * 365 * DAY), now) is Reason.CLOCK
    seen = JobRecord(first_seen=now + 40 * 365 * DAY)
    assert why_due(QUARTERS, seen, now, first=False) is Reason.CLOCK
    assert next_due(QUARTERS, seen, now, first=False) == now
    # What NTP corrects is no reason to run.
    assert why_due(QUARTERS, JobRecord(last_run=now + 5), now) is None


def test_a_failed_job_is_tried_again_after_one_minute_then_ever_later_up_to_thirty() -> None:
    delays = [retry_delay_seconds(failures) for failures in range(1, 9)]
    assert delays == [60, 120, 240, 480, 960, 1800, 1800, 1800]
    assert retry_delay_seconds(10_000) == 1800
    begun, failed = at("2026-07-01T10:00:00"), at("2026-07-01T10:01:00")
    record = JobRecord(last_run=begun, error_time=failed, error="away", failures=1)
    assert why_due(QUARTERS, record, failed + 59) is None
    assert why_due(QUARTERS, record, failed + 60) is Reason.RETRY
    assert next_due(QUARTERS, record, failed) == failed + 60


def test_a_retry_does_not_keep_the_schedule_from_its_run() -> None:
    begun = at("2026-07-01T10:00:00")
    record = JobRecord(last_run=begun, error_time=begun, failures=9)
    assert next_due(QUARTERS, record, begun) == at("2026-07-01T10:15:00")


def test_a_model_is_stale_after_twice_its_interval() -> None:
    good = at("2026-07-01T10:00:00")
    stale = stale_since(QUARTERS, JobRecord(last_good=good))
    assert good + 1800 <= stale <= good + 1800 + 60


def test_a_schedule_that_rests_at_night_does_not_make_its_model_stale_at_night() -> None:
    office = Schedule("0 9-17 * * mon-fri", "UTC")
    friday = at("2026-07-03T17:00:00")
    assert stale_since(office, JobRecord(last_good=friday)) >= at("2026-07-06T10:00:00")


def test_a_model_that_was_never_stored_becomes_stale_from_when_it_was_first_seen() -> None:
    seen = at("2026-07-01T10:00:00")
    assert stale_since(QUARTERS, JobRecord(first_seen=seen)) <= seen + 1860


RECORD = JobRecord(
    last_run=1000.0, last_good=1000.0, last_scan=1000.0, targets={"disk": TargetRecord(1000.0, 1)}
)


def test_a_watched_model_without_events_is_not_looked_at() -> None:
    assert why_scan(Watched(reliable=True, changed=False), RECORD, 2000.0) == ""


@pytest.mark.parametrize(
    ("watched", "record", "now"),
    [
        (Watched(reliable=True, changed=True), RECORD, 2000.0),
        (Watched(reliable=False, changed=False), RECORD, 2000.0),
        (Watched(reliable=True, changed=False), RECORD, 1000.0 + DAY),
        (Watched(reliable=True, changed=False), RECORD, 500.0),
        (Watched(reliable=True, changed=False), replace(RECORD, error="left out: a"), 2000.0),
        (Watched(reliable=True, changed=False), replace(RECORD, failures=2), 2000.0),
    ],
)
def test_a_model_is_looked_at_where_something_may_be_missing(
    watched: Watched, record: JobRecord, now: float
) -> None:
    assert why_scan(watched, record, now)
