"""Which paths of a model stay out of a snapshot, by patterns as in gitignore(5).

Only decides; not descending into what is excluded is the scan's part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from backupd.errors import ConfigError

_NAMED_GROUP = re.compile(r"\(\?P<\w+>")


class Exclusion:
    """Compiled patterns, relative to the model's root; the last one that matches decides.

    As in git, what lies in an excluded folder cannot be taken back by a later `!` pattern,
    since the folder is not entered.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        """Compile `patterns`. Raises ConfigError naming the first that is not valid."""
        self._rules: list[tuple[re.Pattern[str], bool]] = []
        self._may_match: re.Pattern[str] | None = None
        if not any(pattern.strip() for pattern in patterns):
            return
        # pathspec costs 43 ms to import, which a model without patterns need not pay.
        from pathspec import GitIgnoreSpec

        rules: list[tuple[str, bool]] = []
        for pattern in patterns:
            try:
                # pathspec takes `a/**` to match the folder a too; to git only what is below it.
                below = f"{pattern.rstrip()}/*" if pattern.rstrip().endswith("/**") else pattern
                compiled = GitIgnoreSpec.from_lines([below]).patterns
            except (ValueError, re.error) as error:
                raise ConfigError(
                    f"the pattern {pattern!r} is not valid: {error}",
                    hint="Write it as in a .gitignore file, e.g. *.lock or /tmp-*/",
                ) from None
            rules += [
                (_of_the_path_itself(rule.regex.pattern), rule.include)
                for rule in compiled
                if rule.include is not None and rule.regex is not None
            ]
        excluding = [regex for regex, excludes in rules if excludes]
        if excluding:
            # Most paths match no pattern: one regex for all of them tells so in about 1 us.
            self._may_match = re.compile("|".join(excluding))
            self._rules = [(re.compile(regex), excludes) for regex, excludes in reversed(rules)]

    def __bool__(self) -> bool:
        """Whether any pattern can exclude something."""
        return self._may_match is not None

    def excludes(self, path: bytes, *, folder: bool) -> bool:
        """Whether the path (relative to the root, `/` between names) stays out."""
        if self._may_match is None:
            return False
        # A newline would end `.` and satisfy `$` in the patterns' regexes, though to gitignore
        # it is a character like any other.
        text = path.decode("utf-8", "surrogateescape").replace("\n", "\x01")
        if folder:
            text += "/"
        if self._may_match.search(text) is None:
            return False
        return next((excludes for regex, excludes in self._rules if regex.search(text)), False)


def _of_the_path_itself(regex: str) -> str:
    """pathspec's regex for a pattern, without the paths below a folder that it matches.

    The scan asks of each folder on the way down, so a match by an ancestor says nothing more;
    and with it the usual `*`, `!*/`, `!*.pt` would take back every file in a folder. pathspec
    marks the slash that ends such a folder by the group `ps_d`.
    """
    return _NAMED_GROUP.sub("(?:", regex.replace("(?P<ps_d>/)", r"/\Z"))
