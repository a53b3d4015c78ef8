"""What a look at a file's structure says."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Verdict(enum.Enum):
    """How far a file is written, as far as its structure tells."""

    WHOLE = "whole"
    """Nothing speaks against it. Of bytes that no parser knows, nothing ever does."""
    DOUBTFUL = "doubtful"
    """Odd, as a file in the making is and a strange one for ever: believed once it is still."""
    TORN = "torn"
    """It ends before what it says it holds, or holds no end: no reader could load it."""


class Judgement(NamedTuple):
    """A verdict and its reason, which goes behind "it" in a sentence; empty where whole."""

    verdict: Verdict
    reason: str = ""


WHOLE = Judgement(Verdict.WHOLE)


def torn(reason: str) -> Judgement:
    """A judgement of TORN."""
    return Judgement(Verdict.TORN, reason)


def doubtful(reason: str) -> Judgement:
    """A judgement of DOUBTFUL."""
    return Judgement(Verdict.DOUBTFUL, reason)
