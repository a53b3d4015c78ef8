"""Retention against a slow reference, and the promises that hold whatever the snapshots are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from backupd.policy.retention import Candidate, KeepBest, Rules, decide

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()
ZONES: list[tzinfo] = [UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kathmandu")]

# Close together, far apart, out of order, from the future, at one moment: clocks do all of it.
AGES = st.one_of(
    st.integers(0, 100).map(lambda minutes: minutes * 600.0),
    st.integers(-50, 2000).map(lambda hours: hours * 3600.0),
    st.floats(-1e8, 1e9, allow_nan=False),
)
LABELS = st.dictionaries(st.sampled_from(["release", "stage"]), st.sampled_from(["prod", "test"]))
METRICS = st.dictionaries(
    st.sampled_from(["loss", "acc"]), st.floats(allow_nan=True, allow_infinity=True)
)
COUNTS = st.integers(0, 4)


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    versions = draw(st.lists(st.integers(1, 60), unique=True, max_size=25))
    return [
        Candidate(version, NOW - draw(AGES), draw(LABELS), draw(METRICS)) for version in versions
    ]


RULES = st.builds(
    Rules,
    name=st.sampled_from(["working", "archive"]),
    keep_last=COUNTS,
    keep_within=st.integers(0, 96).map(lambda hours: timedelta(hours=hours)),
    keep_hourly=COUNTS,
    keep_daily=COUNTS,
    keep_weekly=COUNTS,
    keep_monthly=COUNTS,
    keep_yearly=COUNTS,
    keep_labels=st.lists(st.sampled_from(["release", "stage=prod"]), max_size=2).map(tuple),
    keep_best=st.none()
    | st.builds(
        KeepBest,
        metric=st.sampled_from(["loss", "acc"]),
        mode=st.sampled_from(["min", "max"]),
        count=st.integers(1, 3),
    ),
)
SOME_RULES = st.lists(RULES, min_size=1, max_size=3)


def kept(found: Sequence[Candidate], rules: Sequence[Rules], zone: tzinfo = UTC) -> set[int]:
    return {d.candidate.version for d in decide(found, rules, NOW, zone) if d.keep}


def slow_reference(found: Sequence[Candidate], rules: Sequence[Rules], zone: tzinfo) -> set[int]:
    """Each candidate is looked at alone, by the sentence that documents each rule."""

    def is_kept(one: Candidate, rule: Rules) -> bool:
        newer = [other for other in found if other.version > one.version]
        if len(newer) < rule.keep_last:
            return True
        if rule.keep_within:
            latest = min(NOW, max(other.time for other in found))
            if latest - one.time <= rule.keep_within.total_seconds():
                return True
        for count, form in (
            (rule.keep_hourly, "%Y-%m-%d %H %z"),
            (rule.keep_daily, "%Y-%m-%d"),
            (rule.keep_weekly, "%G-%V"),
            (rule.keep_monthly, "%Y-%m"),
            (rule.keep_yearly, "%Y"),
        ):
            mine = datetime.fromtimestamp(one.time, zone).strftime(form)
            periods = {datetime.fromtimestamp(other.time, zone).strftime(form) for other in newer}
            if mine not in periods and len(periods) < count:
                return True
        for label in rule.keep_labels:
            if "=" in label:
                key, value = label.split("=")
                if one.labels.get(key) == value:
                    return True
            elif label in one.labels:
                return True
        best = rule.keep_best
        if best is not None:
            value = one.metrics.get(best.metric, math.nan)
            if math.isfinite(value):
                others = [
                    (other.metrics[best.metric], other.version)
                    for other in found
                    if math.isfinite(other.metrics.get(best.metric, math.nan))
                ]
                before = [
                    version
                    for measured, version in others
                    if (measured < value if best.mode == "min" else measured > value)
                    or (measured == value and version > one.version)
                ]
                if len(before) < best.count:
                    return True
        return False

    newest = max((one.version for one in found), default=0)
    return {
        one.version
        for one in found
        if one.version == newest or any(is_kept(one, rule) for rule in rules)
    }


@given(candidates(), SOME_RULES, st.sampled_from(ZONES))
def test_retention_equals_the_slow_reference(
    found: list[Candidate], rules: list[Rules], zone: tzinfo
) -> None:
    assert kept(found, rules, zone) == slow_reference(found, rules, zone)


@given(candidates(), SOME_RULES)
def test_the_newest_is_never_forgotten(found: list[Candidate], rules: list[Rules]) -> None:
    if found:
        assert max(one.version for one in found) in kept(found, rules)


@given(candidates(), SOME_RULES, st.sampled_from(ZONES))
def test_deciding_again_over_what_was_kept_keeps_all_of_it(
    found: list[Candidate], rules: list[Rules], zone: tzinfo
) -> None:
    first = kept(found, rules, zone)
    left = [one for one in found if one.version in first]
    assert kept(left, rules, zone) == first


@given(candidates(), SOME_RULES, RULES)
def test_one_policy_more_never_forgets_more(
    found: list[Candidate], rules: list[Rules], another: Rules
) -> None:
    assert kept(found, rules) <= kept(found, [*rules, another])


@given(candidates(), RULES, st.sampled_from(["last", "hourly", "daily", "weekly", "monthly"]))
def test_a_greater_count_never_forgets_more(
    found: list[Candidate], rules: Rules, name: str
) -> None:
    more = replace(rules, **{f"keep_{name}": getattr(rules, f"keep_{name}") + 1})
    assert kept(found, [rules]) <= kept(found, [more])


@given(candidates(), SOME_RULES, st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_does_not_matter(
    found: list[Candidate], rules: list[Rules], random: object
) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert kept(shuffled, rules) == kept(found, rules)


@given(candidates(), SOME_RULES, st.floats(0, 1e9))
def test_time_that_only_passes_forgets_nothing(
    found: list[Candidate], rules: list[Rules], later: float
) -> None:
    past = [one for one in found if one.time <= NOW]
    now = {d.candidate.version for d in decide(past, rules, NOW) if d.keep}
    then = {d.candidate.version for d in decide(past, rules, NOW + later) if d.keep}
    assert now == then
