"""When a model is taken, what is waited for, and what is named once nobody waits any longer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backupd.capture.settle import (
    Observed,
    Settled,
    SettleRules,
    Unsettled,
    asked_rules,
    decide,
    immediate_rules,
    scheduled_rules,
)
from backupd.capture.wholeness.verdict import WHOLE, Judgement, Verdict

NOW = 1_000_000.0
SCHEDULED = scheduled_rules(30, 3600)
ASKED = asked_rules(30)
TORN = Judgement(Verdict.TORN, "ends early")
DOUBTFUL = Judgement(Verdict.DOUBTFUL, "has no index yet")


def seen(age: float, judgement: Judgement = WHOLE, writer: str = "") -> Observed:
    return Observed(b"last.pt", NOW - age, judgement, writer)


def told(one: Observed, rules: SettleRules, waited: float = 0) -> Settled | Unsettled:
    return decide([one], rules, now=NOW, waited_seconds=waited)


def test_a_schedule_waits_until_files_are_quiet() -> None:
    assert told(seen(10), SCHEDULED) == Unsettled(20, "last.pt changed 10 s ago")
    assert told(seen(30), SCHEDULED) == Settled()
    assert told(seen(10), ASKED) == Settled()


def test_after_settle_max_what_is_whole_is_taken() -> None:
    assert told(seen(1), SCHEDULED, 3600) == Settled()
    assert told(seen(1, TORN), SCHEDULED, 3600) == Settled({b"last.pt": "ends early"})


def test_a_torn_file_is_waited_for_and_then_named() -> None:
    waiting = told(seen(5, TORN), ASKED)
    assert isinstance(waiting, Unsettled) and waiting.reason == "last.pt ends early"
    assert told(seen(5, TORN), ASKED, 30) == Settled({b"last.pt": "ends early"})
    assert told(seen(0, TORN), immediate_rules(30)) == Settled({b"last.pt": "ends early"})


def test_a_torn_file_that_a_crash_left_long_ago_holds_nothing_up() -> None:
    assert told(seen(86_400, TORN), SCHEDULED) == Settled({b"last.pt": "ends early"})
    assert told(seen(31, TORN), ASKED) == Settled({b"last.pt": "ends early"})


def test_a_file_that_is_open_for_writing_is_waited_for_and_named() -> None:
    waiting = told(seen(5, writer="python (pid 7)"), ASKED)
    assert isinstance(waiting, Unsettled)
    assert waiting.reason == "last.pt is open for writing by python (pid 7)"
    named = told(seen(5, writer="python (pid 7)"), ASKED, 30)
    assert named == Settled({b"last.pt": "is open for writing by python (pid 7)"})


def test_one_that_is_kept_open_and_has_long_been_still_is_believed() -> None:
    assert told(seen(3601, writer="python (pid 7)"), SCHEDULED) == Settled()


def test_a_doubtful_file_is_believed_once_it_is_still() -> None:
    assert isinstance(told(seen(0.5, DOUBTFUL), ASKED), Unsettled)
    assert told(seen(1, DOUBTFUL), ASKED) == Settled()
    assert isinstance(told(seen(29, DOUBTFUL), SCHEDULED), Unsettled)
    assert told(seen(30, DOUBTFUL), SCHEDULED) == Settled()


def test_a_time_in_the_future_holds_nothing_up() -> None:
    assert told(seen(-86_400), SCHEDULED) == Settled()
    assert told(seen(-86_400, DOUBTFUL), SCHEDULED) == Settled()


def test_nothing_new_is_settled() -> None:
    assert decide([], SCHEDULED, now=NOW, waited_seconds=0) == Settled()


@given(
    st.lists(
        st.builds(
            Observed,
            st.binary(min_size=1, max_size=3),
            st.floats(0, 2 * NOW),
            st.sampled_from([WHOLE, TORN, DOUBTFUL]),
            st.sampled_from(["", "python (pid 7)"]),
        ),
        max_size=5,
    ),
    st.sampled_from([SCHEDULED, ASKED, immediate_rules(30)]),
    st.floats(0, 10_000),
)
def test_the_wait_ends_and_nothing_torn_is_ever_believed(
    observed: list[Observed], rules: SettleRules, waited: float
) -> None:
    decision = decide(observed, rules, now=NOW, waited_seconds=waited)
    if isinstance(decision, Unsettled):
        assert waited < rules.patience_seconds
        assert 0 < decision.seconds <= max(rules.patience_seconds - waited, 0.05)
    else:
        torn = {one.path for one in observed if one.judgement is TORN}
        assert torn <= decision.torn.keys()
