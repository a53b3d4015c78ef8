"""Whether a model's checkpoint files have settled, and if not, how long to wait and for what.

Pure: what was seen of the files goes in, a decision comes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from backupd.capture.folders import shown
from backupd.capture.wholeness.verdict import WHOLE, Judgement, Verdict

_SHORTEST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 5.0
_ASKED_STILL_SECONDS = 1.0
_LOOKS_PER_SETTLE = 10
# A ctime may lie a timer tick ahead of the clock; further ahead it was written by another clock.
_CLOCK_SLACK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class SettleRules:
    """How long what must be still, in seconds.

    `quiet` is demanded of every file; `still` makes a doubtful one believed; `patience` is how
    long the whole wait may last.
    """

    quiet_seconds: float
    still_seconds: float
    patience_seconds: float


def scheduled_rules(settle_seconds: float, settle_max_seconds: float) -> SettleRules:
    """For a snapshot that is nobody's wish of this moment."""
    return SettleRules(settle_seconds, settle_seconds, settle_max_seconds)


def asked_rules(settle_seconds: float) -> SettleRules:
    """For one that a person or the trainer asked for: what is whole now need not be quiet too,
    and what is merely odd is believed sooner."""
    return SettleRules(0.0, min(settle_seconds, _ASKED_STILL_SECONDS), settle_seconds)


def immediate_rules(settle_seconds: float) -> SettleRules:
    """For one that is not to wait at all."""
    return SettleRules(0.0, min(settle_seconds, _ASKED_STILL_SECONDS), 0.0)


class Observed(NamedTuple):
    """One new or changed file of a checkpoint: its ctime in epoch seconds, what its structure
    and its set say, and who has it open for writing (empty for nobody)."""

    path: bytes
    changed_at: float
    judgement: Judgement = WHOLE
    writer: str = ""


@dataclass(frozen=True, slots=True)
class Settled:
    """Go on; `torn` says of each path that is not to be believed why."""

    torn: Mapping[bytes, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unsettled:
    """Look again in `seconds`; `reason` is a sentence about the file that is waited for."""

    seconds: float
    reason: str


def decide(
    observed: Iterable[Observed], rules: SettleRules, *, now: float, waited_seconds: float
) -> Settled | Unsettled:
    """Whether to go on, at `now` (epoch) and after so long a wait."""
    torn: dict[bytes, str] = {}
    pause = 0.0
    reason = ""
    for one in observed:
        age = now - one.changed_at
        if age < -_CLOCK_SLACK_SECONDS:
            age = rules.still_seconds
        why = _doubt(one, rules, age)
        if why:
            torn[one.path] = why
        # What has been still for longer than anybody would wait does not mend itself.
        if age >= rules.patience_seconds or waited_seconds >= rules.patience_seconds:
            continue
        quiet_in = rules.quiet_seconds - age
        if why:
            if not reason or not pause:
                reason = f"{shown(one.path)} {why}"
            pause = max(pause, _look_again(rules, age))
        elif quiet_in > 0:
            reason = reason or f"{shown(one.path)} changed {max(age, 0.0):.0f} s ago"
            pause = max(pause, quiet_in)
    if reason:
        left = rules.patience_seconds - waited_seconds
        return Unsettled(max(min(pause, left), _SHORTEST_PAUSE_SECONDS), reason)
    return Settled(torn)


def _doubt(one: Observed, rules: SettleRules, age: float) -> str:
    """Why the file is not to be believed as it is; empty where it is."""
    if one.judgement.verdict is Verdict.TORN:
        return one.judgement.reason
    if one.writer and age < max(rules.still_seconds, rules.patience_seconds):
        return f"is open for writing by {one.writer}"
    if one.judgement.verdict is Verdict.DOUBTFUL and age < rules.still_seconds:
        return one.judgement.reason
    return ""


def _look_again(rules: SettleRules, age: float) -> float:
    soon = rules.still_seconds / _LOOKS_PER_SETTLE
    return min(max(soon, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
