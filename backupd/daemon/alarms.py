"""What is worth a message: from two looks at the daemon's status to what has changed for the worse
or the better. Pure; `messages` looks and sends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

# What lasts is said again once a day: a message that was overlooked is not the last one.
AGAIN_SECONDS = 24 * 3600.0
_MAX_TEXT = 500


class Event(StrEnum):
    """What a message is about."""

    FAILURE = "failure"
    RECOVERY = "recovery"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong, and when it was last said (seconds since the epoch, 0: not yet)."""

    event: Event
    text: str
    said: float = 0.0


@dataclass(frozen=True, slots=True)
class Message:
    """One thing to say; `subject` is a model or an upkeep job, `text` a sentence."""

    event: Event
    subject: str
    text: str

    @property
    def title(self) -> str:
        """A line for a message's head."""
        words = {Event.FAILURE: "failed", Event.RECOVERY: "is well again", Event.STALE: "is stale"}
        return f"backupd: {self.subject} {words[self.event]}"


Troubles = Mapping[str, Trouble]


def troubles_of(status: Mapping[str, Any]) -> dict[str, Trouble]:
    """What is wrong by a status document, by subject."""
    found: dict[str, Trouble] = {}
    for model in status.get("models", ()):
        subject = f"model {model['name']}"
        away = [
            f"{target['name']}: {target['error']}"
            for target in model.get("targets", ())
            if target.get("error")
        ]
        error = model.get("error") or "; ".join(away)
        if error:
            found[subject] = Trouble(Event.FAILURE, str(error)[:_MAX_TEXT])
        elif model.get("stale"):
            why = "its newest snapshot is older than its schedule allows"
            found[subject] = Trouble(Event.STALE, why)
    for job in status.get("upkeep", ()):
        if job.get("error"):
            subject = " ".join(part for part in (job["job"], job.get("target")) if part)
            found[subject] = Trouble(Event.FAILURE, str(job["error"])[:_MAX_TEXT])
    return found


def compare(
    before: Troubles, now_wrong: Troubles, now: float
) -> tuple[dict[str, Trouble], list[Message]]:
    """What is wrong from now on, with when it was said, and what is to be said now."""
    after: dict[str, Trouble] = {}
    messages = list(_recovered(before, now_wrong))
    for subject, trouble in now_wrong.items():
        known = before.get(subject)
        said = known.said if known is not None and known.event is trouble.event else 0.0
        if now - said >= AGAIN_SECONDS:
            messages.append(Message(trouble.event, subject, trouble.text))
            said = now
        after[subject] = Trouble(trouble.event, trouble.text, said)
    return after, messages


def _recovered(before: Troubles, now_wrong: Troubles) -> Iterator[Message]:
    for subject, trouble in before.items():
        if subject not in now_wrong:
            yield Message(Event.RECOVERY, subject, f"it was: {trouble.text}")
