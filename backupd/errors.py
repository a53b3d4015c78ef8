"""The one tree of errors, each with the exit code it ends a command with and a hint that mends it.

Errors are raised where the fact is known and turned into words in one place (`backupd.cli`).
Nothing in here imports anything else of the project.
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
EXIT_NOT_FOUND = 4
EXIT_TARGET = 5
EXIT_KEY = 6
EXIT_DAMAGED = 7
EXIT_INTERRUPTED = 130
REPOSITORY_EXITS = (
    EXIT_FAILED,
    EXIT_PARTIAL,
    EXIT_NOT_FOUND,
    EXIT_TARGET,
    EXIT_KEY,
    EXIT_DAMAGED,
)
"""How a command that works on what is stored may end, but for 0 and 2."""


class BackupdError(Exception):
    """Anything a user can cause or meet: one clear sentence, and a hint that says the mend.

    `message` names the thing and the place; `hint` says what to do, or is empty.
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(BackupdError):
    """The command line asks for something that cannot be."""

    exit_code = EXIT_USAGE


class ConfigError(BackupdError):
    """The configuration is refused; `file` and `line` (1-based, 0 when unknown) say where."""

    exit_code = EXIT_USAGE

    def __init__(self, message: str, *, file: str = "", line: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.file = file
        self.line = line

    def __str__(self) -> str:
        if self.file and self.line:
            return f"{self.file}:{self.line}: {self.message}"
        if self.file:
            return f"{self.file}: {self.message}"
        return self.message


class PartialError(BackupdError):
    """Done in part; the message names what is missing."""

    exit_code = EXIT_PARTIAL


class NotFoundError(BackupdError):
    """No such model or snapshot."""

    exit_code = EXIT_NOT_FOUND


class TargetError(BackupdError):
    """A target failed in a way that trying again does not mend."""

    exit_code = EXIT_TARGET


class TargetUnreachableError(TargetError):
    """A target does not answer now; trying again later may help."""


class SourcesAwayError(TargetUnreachableError):
    """None of the targets that a copy could come from can be reached."""


class TargetFullError(TargetError):
    """A target has no room left (ENOSPC, EDQUOT, or the store's own word for it)."""


class TargetReadOnlyError(TargetError):
    """A target refuses to be written to."""


class ObjectMissingError(TargetError):
    """The named object is not on the target."""


class WrongKeyError(BackupdError):
    """The key or passphrase is missing or does not open the repository."""

    exit_code = EXIT_KEY


class DamagedError(BackupdError):
    """Stored bytes are not what was stored."""

    exit_code = EXIT_DAMAGED


class ColdError(DamagedError, TargetError):
    """The object is in an archive class and must be thawed before it can be read.

    It is whole, but who gets along without damaged bytes gets along without these; the rest of
    what was asked for can be given, so it ends as what is done in part.
    """

    exit_code = EXIT_PARTIAL


class StoppedError(BackupdError):
    """Stopped on request, with what was stored kept for resume."""

    exit_code = EXIT_INTERRUPTED
