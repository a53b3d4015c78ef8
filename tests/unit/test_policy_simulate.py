"""What the policies come to as time goes on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from backupd.policy.cron import parse_cron
from backupd.policy.retention import Candidate, Rules
from backupd.policy.simulate import Simulation, simulate

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()
DAILY = parse_cron("0 3 * * *")
WORKING = Rules("w", keep_last=5, keep_daily=7)


def run(
    days: float, schedule: str = "0 * * * *", candidates: tuple[Candidate, ...] = ()
) -> Simulation:
    return simulate(
        candidates,
        [WORKING],
        schedule=parse_cron(schedule),
        forget=DAILY,
        now=NOW,
        duration=timedelta(days=days),
    )


def test_the_number_kept_grows_to_what_the_rules_allow_and_stays() -> None:
    result = run(30)
    # At 3 in the morning the last five are four of today and one that yesterday keeps as well.
    assert [forget.kept for forget in result.runs[:8]] == [5, 6, 7, 8, 9, 10, 10, 10]
    # At noon, where it ends, the last five are all of today.
    assert result.runs[-1].kept == result.most_kept == 11
    assert [d.candidate.version for d in result.kept] == sorted(
        (d.candidate.version for d in result.kept), reverse=True
    )
    assert result.kept[0].reasons == ("w: last 1/5", "w: daily 1/7 (2026-12-23)")
    assert result.kept[-1].reasons == ("w: daily 7/7 (2026-12-17)",)


def test_every_snapshot_is_taken_once_and_kept_or_forgotten_once() -> None:
    result = run(10)
    assert sum(forget.taken for forget in result.runs) == 240
    forgotten = sum(forget.forgotten for forget in result.runs)
    assert 240 - forgotten == len(result.kept)


def test_todays_snapshots_take_part_with_their_labels() -> None:
    labelled = Candidate(7, NOW - 86400, {"release": "1"}, {})
    result = simulate(
        [labelled],
        [WORKING, Rules("a", keep_labels=("release",))],
        schedule=parse_cron("@hourly"),
        forget=DAILY,
        now=NOW,
        duration=timedelta(days=60),
    )
    assert result.kept[-1].candidate == labelled
    assert result.kept[-1].reasons == ("a: label release",)
    assert result.runs[-1].oldest == labelled.time
    assert result.runs[0].kept > 1


def test_nothing_to_take_leaves_what_there_is() -> None:
    only = Candidate(1, NOW, {}, {})
    result = run(1, "0 0 29 2 *", (only,))
    assert [decision.candidate for decision in result.kept] == [only]


def test_the_schedule_is_read_in_the_time_zone_through_summer_time() -> None:
    zone = ZoneInfo("Europe/Berlin")
    start = datetime(2027, 3, 27, 12, tzinfo=zone).timestamp()
    result = simulate(
        (),
        [Rules("w", keep_last=9)],
        schedule=parse_cron("0 9 * * *"),
        forget=DAILY,
        now=start,
        duration=timedelta(days=2),
        timezone=zone,
    )
    taken = [datetime.fromtimestamp(d.candidate.time, zone) for d in reversed(result.kept)]
    assert [f"{moment:%d %H:%M}" for moment in taken] == ["28 09:00", "29 09:00"]


def test_more_than_can_be_played_is_refused_with_the_mend() -> None:
    with pytest.raises(ValueError, match="more than 105120 snapshots in that time; ask for"):
        run(400, "* * * * *")


def test_forget_that_never_runs_is_played_at_the_end_alone() -> None:
    result = simulate(
        (),
        [WORKING],
        schedule=parse_cron("@hourly"),
        forget=None,
        now=NOW,
        duration=timedelta(days=3),
    )
    assert [(forget.taken, forget.kept) for forget in result.runs] == [(72, 72)]
