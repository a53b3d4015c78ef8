"""Which paths of a model stay out of a snapshot, by patterns as in gitignore(5).

Only decides; not descending into what is excluded is the scan's part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backupd.errors import ConfigError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

_NAMED_GROUP = re.compile(r"\(\?P<\w+>")


class Exclusion:
    """Compiled patterns, relative to the model's root; the last one that matches decides.

    As in git, what lies in an excluded folder cannot be taken back by a later `!` pattern,
    since the folder is not entered.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        """Compile `patterns`. Raises ConfigError naming the first that is not valid."""
        self._spec: GitIgnoreSpec | None = None
        self._may_match: re.Pattern[str] | None = None
        if not any(pattern.strip() for pattern in patterns):
            return
        # pathspec costs 43 ms to import, which a model without patterns need not pay.
        from pathspec import GitIgnoreSpec

        for pattern in patterns:
            try:
                GitIgnoreSpec.from_lines([pattern])
            except ValueError as error:
                raise ConfigError(
                    f"the exclude pattern {pattern!r} is not valid: {error}",
                    hint="Write it as in a .gitignore file, e.g. *.lock or /tmp-*/",
                ) from None
        spec = GitIgnoreSpec.from_lines(patterns)
        regexes = [p.regex.pattern for p in spec.patterns if p.include and p.regex is not None]
        if not regexes:
            return
        self._spec = spec
        # Most paths match no pattern at all: one regex for all of them tells so in 1 us, where
        # pathspec's own loop, which knows what a later `!` takes back, takes about 10.
        self._may_match = re.compile("|".join(_NAMED_GROUP.sub("(?:", r) for r in regexes))

    def __bool__(self) -> bool:
        """Whether any pattern can exclude something."""
        return self._may_match is not None

    def excludes(self, path: bytes, *, folder: bool) -> bool:
        """Whether the path (relative to the root, `/` between names) stays out."""
        if self._spec is None or self._may_match is None:
            return False
        # A newline would end `.` and satisfy `$` in the patterns' regexes, though to gitignore
        # it is a character like any other.
        text = path.decode("utf-8", "surrogateescape").replace("\n", "\x01")
        if folder:
            text += "/"
        return self._may_match.match(text) is not None and self._spec.match_file(text)
