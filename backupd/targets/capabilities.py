"""What a store was seen to do, as a value: found by `probe`, kept, and obeyed.

Nothing in here asks a store anything.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Creation(StrEnum):
    """What a store makes of `If-None-Match: *`, or a folder of its own way.

    `ATOMIC`: of any number that race one wins. `RACY`: a later one is refused, but of those that
    race several win. `IGNORED`: the last one wins. `REFUSED`: it is not known there.
    """

    ATOMIC = "atomic"
    RACY = "racy"
    IGNORED = "ignored"
    REFUSED = "refused"


class Ranges(StrEnum):
    """How a store answers when it is asked for a part of an object.

    `PARTIAL`: with that part. `UNMARKED`: with that part, but with status 200. `WHOLE`: with the
    whole object. `WRONG`: with other bytes.
    """

    PARTIAL = "partial"
    UNMARKED = "unmarked"
    WHOLE = "whole"
    WRONG = "wrong"


class Lock(StrEnum):
    """Whether a bucket has S3's Object Lock, and which mode new objects get of themselves."""

    ABSENT = "absent"
    ENABLED = "enabled"
    GOVERNANCE = "governance"
    COMPLIANCE = "compliance"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What was seen at a target.

    `whole`: what was put came back bit for bit, also what went up in parts. `checksums`: bytes
    that do not match their Content-MD5 are refused. `listing`: what was just put is listed, what
    was just deleted is not. `deletes`: these credentials may delete. `clock_ahead_seconds`: the
    store's clock less this box's. `probed`: seconds since the epoch.
    """

    creation: Creation
    ranges: Ranges
    whole: bool
    checksums: bool
    listing: bool
    deletes: bool
    versioning: bool
    object_lock: Lock
    clock_ahead_seconds: float
    probed: float

    def objection(self) -> str:
        """Why nothing may be kept there, as the end of a sentence; empty where it may."""
        if not self.whole:
            return "gives back other bytes than were stored"
        if self.ranges is Ranges.WRONG:
            return "answers with other bytes when it is asked for a part of an object"
        if self.creation is not Creation.ATOMIC and not self.listing:
            return (
                "neither creates an object for one writer alone nor lists what was just stored,"
                " so two writers could take one version number"
            )
        if self.creation is not Creation.ATOMIC and not self.deletes:
            return (
                "does not create an object for one writer alone, and lets nothing be deleted,"
                " which is what writers would agree by"
            )
        return ""

    def remarks(self) -> list[str]:
        """What is otherwise than with Amazon, and what is done about it; a sentence each."""
        said = []
        why = {
            Creation.RACY: "lets several writers that race create one object",
            Creation.IGNORED: "ignores the condition under which an object is created",
            Creation.REFUSED: "refuses the condition under which an object is created",
        }.get(self.creation)
        if why:
            said.append(f"it {why}: version numbers are taken by claims, at four requests more")
        if self.ranges is Ranges.UNMARKED:
            said.append("it answers a range with status 200: the bytes are right and are used")
        if self.ranges is Ranges.WHOLE:
            said.append(
                "it answers a range with the whole object: the rest is read for nothing, so a"
                " restore of a few files is slow"
            )
        if not self.checksums:
            said.append("it stores bytes that do not match their checksum: `check` is what tells")
        if not self.listing:
            said.append("its listings lag behind: what was just stored may look absent for a while")
        if not self.deletes:
            said.append("these credentials delete nothing: prune elsewhere, with others")
        if abs(self.clock_ahead_seconds) > _SKEW_SECONDS:
            apart = abs(self.clock_ahead_seconds)
            side = "ahead of" if self.clock_ahead_seconds > 0 else "behind"
            said.append(f"its clock is {apart:.0f} s {side} this box's: set the wrong one right")
        return said


# Amazon refuses requests from 15 minutes on; times in listings look odd well before.
_SKEW_SECONDS = 60.0


def encode_capabilities(capabilities: Capabilities, place: str) -> bytes:
    """What is kept of a probe of `place`, an address that changes when the target does."""
    return json.dumps({"place": place, **asdict(capabilities)}, indent=1).encode() + b"\n"


def decode_capabilities(data: bytes, place: str) -> Capabilities | None:
    """The capabilities as kept, or None where they are of another place or not to be read."""
    try:
        value: Any = json.loads(data)
        if value["place"] != place:
            return None
        ahead, probed = float(value["clock_ahead_seconds"]), float(value["probed"])
        if not (math.isfinite(ahead) and math.isfinite(probed)):
            return None
        return Capabilities(
            creation=Creation(value["creation"]),
            ranges=Ranges(value["ranges"]),
            whole=value["whole"] is True,
            checksums=value["checksums"] is True,
            listing=value["listing"] is True,
            deletes=value["deletes"] is True,
            versioning=value["versioning"] is True,
            object_lock=Lock(value["object_lock"]),
            clock_ahead_seconds=ahead,
            probed=probed,
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
