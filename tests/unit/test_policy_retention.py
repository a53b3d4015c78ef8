"""What each retention rule keeps, and the words in which it says why."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from backupd.policy.retention import NEWEST, NO_POLICY, Candidate, KeepBest, Rules, decide

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()
HOUR = 3600.0
DAY = 24 * HOUR


def taken(
    version: int,
    ago: float,
    labels: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Candidate:
    return Candidate(version, NOW - ago, labels or {}, metrics or {})


def kept(candidates: list[Candidate], *rules: Rules, now: float = NOW) -> dict[int, list[str]]:
    return {
        decision.candidate.version: list(decision.reasons)
        for decision in decide(candidates, rules, now)
        if decision.keep
    }


def test_the_last_are_kept_and_counted_from_the_newest() -> None:
    found = kept([taken(v, (9 - v) * HOUR) for v in range(1, 9)], Rules("w", keep_last=2))
    assert found == {8: ["w: last 1/2"], 7: ["w: last 2/2"]}


def test_one_of_each_day_is_kept_and_empty_days_do_not_count() -> None:
    days = [0.0, 0.2, 3.0, 3.1, 10.0, 40.0]
    candidates = [taken(len(days) - place, ago * DAY) for place, ago in enumerate(days)]
    assert kept(candidates, Rules("w", keep_daily=3)) == {
        6: ["w: daily 1/3 (2026-11-23)"],
        4: ["w: daily 2/3 (2026-11-20)"],
        2: ["w: daily 3/3 (2026-11-13)"],
    }


def test_hours_weeks_months_and_years_are_named() -> None:
    rules = Rules("a", keep_hourly=1, keep_weekly=1, keep_monthly=1, keep_yearly=1)
    assert kept([taken(1, 0)], rules) == {
        1: [
            "a: hourly 1/1 (2026-11-23 12h)",
            "a: weekly 1/1 (2026-W48)",
            "a: monthly 1/1 (2026-11)",
            "a: yearly 1/1 (2026)",
        ]
    }


def test_the_days_are_those_of_the_time_zone() -> None:
    midnight = datetime(2026, 11, 22, 23, 30, tzinfo=UTC).timestamp()
    candidates = [Candidate(1, midnight - HOUR, {}, {}), Candidate(2, midnight, {}, {})]
    rules = [Rules("w", keep_daily=5)]
    assert [d.keep for d in decide(candidates, rules, NOW)] == [False, True]
    berlin = decide(candidates, rules, NOW, ZoneInfo("Europe/Berlin"))
    assert [d.reasons for d in berlin] == [
        ("w: daily 2/5 (2026-11-22)",),
        ("w: daily 1/5 (2026-11-23)",),
    ]


def test_the_hour_that_summer_time_repeats_is_two_hours() -> None:
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()
    candidates = [Candidate(1, first, {}, {}), Candidate(2, first + HOUR, {}, {})]
    zone = ZoneInfo("Europe/Berlin")
    decisions = decide(candidates, [Rules("w", keep_hourly=5)], NOW, zone)
    assert [d.reasons for d in decisions] == [
        ("w: hourly 2/5 (2026-10-25 02h+0200)",),
        ("w: hourly 1/5 (2026-10-25 02h+0100)",),
    ]


def test_within_counts_from_the_newest_so_a_box_that_was_off_loses_nothing() -> None:
    candidates = [taken(1, 63 * DAY), taken(2, 61 * DAY), taken(3, 60 * DAY)]
    assert kept(candidates, Rules("w", keep_within=timedelta(days=2))) == {
        2: ["w: within 2d of the newest"],
        3: ["w: within 2d of the newest"],
    }


def test_a_snapshot_from_the_future_does_not_make_the_others_old() -> None:
    candidates = [taken(1, DAY), taken(2, -3650 * DAY), taken(3, 0)]
    assert set(kept(candidates, Rules("w", keep_within=timedelta(days=2)))) == {1, 2, 3}


def test_the_newest_is_the_highest_version_whatever_its_clock_said() -> None:
    candidates = [taken(1, 0), taken(2, 400 * DAY)]
    assert kept(candidates, Rules("w", keep_labels=("x",))) == {2: [NEWEST]}


def test_labels_are_kept_by_key_or_by_key_and_value() -> None:
    candidates = [
        taken(1, 9, {"release": "1.0"}),
        taken(2, 8, {"stage": "prod"}),
        taken(3, 7, {"stage": "test"}),
        taken(4, 6, {"a=b": "c"}),
        taken(5, 5),
    ]
    rules = Rules("a", keep_labels=("release", "stage=prod", "a=b"))
    assert kept(candidates, rules) == {
        1: ["a: label release"],
        2: ["a: label stage=prod"],
        4: ["a: label a=b"],
        5: [NEWEST],
    }


@pytest.mark.parametrize(("mode", "versions"), [("min", {2, 4, 6}), ("max", {1, 3, 6})])
def test_the_best_are_kept_and_what_is_no_number_is_never_best(
    mode: str, versions: set[int]
) -> None:
    losses = {1: 0.9, 2: 0.2, 3: 0.5, 4: 0.2, 5: float("nan")}
    candidates = [taken(v, 9 - v, metrics={"loss": loss}) for v, loss in losses.items()]
    candidates.append(taken(6, 0, metrics={"other": 0.0}))
    assert set(kept(candidates, Rules("a", keep_best=KeepBest("loss", mode, 2)))) == versions


def test_of_equally_good_ones_the_newer_is_kept_and_the_reason_tells_the_value() -> None:
    candidates = [taken(v, 9 - v, metrics={"loss": 0.25}) for v in (1, 2, 3)]
    found = kept(candidates, Rules("a", keep_best=KeepBest("loss", "min", 1)))
    assert found == {3: ["a: best loss 1/1 (0.25)"]}


def test_several_policies_are_a_union_and_each_says_its_reason() -> None:
    candidates = [taken(1, 5 * DAY), taken(2, DAY), taken(3, 0)]
    found = kept(candidates, Rules("working", keep_last=1), Rules("archive", keep_daily=2))
    assert found == {
        3: ["working: last 1/1", "archive: daily 1/2 (2026-11-23)"],
        2: ["archive: daily 2/2 (2026-11-22)"],
    }


def test_without_any_policy_everything_is_kept() -> None:
    assert kept([taken(1, DAY), taken(2, 0)]) == {1: [NO_POLICY], 2: [NO_POLICY]}


def test_decisions_come_in_the_order_of_the_candidates() -> None:
    candidates = [taken(2, 1), taken(3, 0), taken(1, 2)]
    decisions = decide(candidates, [Rules("w", keep_last=1)], NOW)
    assert [decision.candidate for decision in decisions] == candidates
    assert decide([], [Rules("w", keep_last=1)], NOW) == ()


@pytest.mark.parametrize("time", [1e300, -1e300, float("inf"), float("nan"), 253402300799.0])
def test_a_clock_that_was_broken_does_not_stop_retention(time: float) -> None:
    rules = Rules("w", keep_daily=9, keep_hourly=9, keep_within=timedelta(days=1))
    candidates = [Candidate(1, time, {}, {}), taken(2, 0)]
    assert 2 in kept(candidates, rules)
    assert decide(candidates, [rules], NOW, ZoneInfo("Pacific/Kiritimati"))
