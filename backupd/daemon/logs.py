"""The daemon's log: readable on a terminal, else JSON that journald sorts by priority.

Every line passes `redact`, so that no secret is in a log even where one was bound by mistake.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

    Log = FilteringBoundLogger

# sd-daemon(3): the priorities of syslog, between angle brackets at the beginning of a line.
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}

HIDDEN = "***"
_SECRET_KEY = re.compile(
    r"pass(word|phrase|wd)?$|secret|credential|token|authorization|signature"
    r"|(^|_)(private_|recovery_|access_|api_|master_)?key$",
    re.IGNORECASE,
)
# Amazon's key ids: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
# name=value and name: value, as in URLs, headers, INI and YAML
_NAMED = re.compile(
    r"(?i)\b((?:aws_)?(?:secret|session|access)[a-z_]*(?:key|token)[a-z_]*|passphrase|password"
    r"|x-amz-(?:signature|credential|security-token)|authorization)"
    r"(['\"]?\s*[=:]\s*['\"]?)(?:AWS4-HMAC-SHA256[^\n'\"]*|Bearer\s+\S+|[^\s'\"&,;]+)"
)
_IN_URL = re.compile(r"(://[^\s/:@]*:)[^\s/@]+(@)")


def make_log(stream: TextIO, *, terminal: bool, level: int = logging.INFO) -> Log:
    """A logger that writes to `stream`."""
    # Imported here: structlog costs 133 ms, and `daemon.client` shares this package.
    import structlog

    render: Processor = render_journal
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    if terminal:
        # Short, so that a line fits a terminal: the wall clock's time, and no padding.
        stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
        plain = structlog.dev.plain_traceback
        render = structlog.dev.ConsoleRenderer(0, colors=False, exception_formatter=plain)
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        redact,
        stamp,
        render,
    ]
    log: Log = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    return log


def render_journal(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """One line of JSON, its message first, behind the priority that journald takes off again."""
    level = str(event.pop("level", method))
    line = {"level": level, "event": event.pop("event", ""), **event}
    return f"<{_PRIORITIES.get(level, 6)}>{json.dumps(line, default=str)}"


def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Hide every value whose name is that of a secret, and what looks like one within texts."""
    return {key: _clean(key, value) for key, value in event.items()}


def _clean(key: object, value: Any) -> Any:
    if isinstance(key, str) and _SECRET_KEY.search(key):
        return HIDDEN
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bytes):
        return redact_text(value.decode("utf-8", "backslashreplace"))
    if isinstance(value, Mapping):
        return {name: _clean(name, entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean("", entry) for entry in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return redact_text(str(value))


def redact_text(text: str) -> str:
    """The text without what looks like a secret in it."""
    text = _KEY_ID.sub(HIDDEN, text)
    text = _NAMED.sub(rf"\1\2{HIDDEN}", text)
    return _IN_URL.sub(rf"\1{HIDDEN}\2", text)


class LibraryHandler(logging.Handler):
    """Brings what libraries tell `logging` (boto3, watchdog) into the daemon's own log."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            log = self._log.bind(library=record.name)
            if record.levelno >= logging.ERROR:
                log.error(record.getMessage(), exc_info=record.exc_info)
            else:
                log.warning(record.getMessage(), exc_info=record.exc_info)
        except Exception:
            self.handleError(record)


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads the stream."""
    try:
        return stream.isatty()
    except ValueError:
        return False
