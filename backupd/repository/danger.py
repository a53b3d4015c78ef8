"""What a snapshot says of a file that may run code when it is loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Danger:
    """A file of a snapshot that may run code when it is loaded; see `capture.danger`.

    `level` is `dangerous` (it calls what is known to do harm), `unknown` (it calls what is not
    known to be harmless) or `unscanned` (it could not be looked through); `what` goes after the
    path in a sentence.
    """

    path: str
    level: str
    what: str
