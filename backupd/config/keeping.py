"""A configuration as it may be kept beside the snapshots: the text as written, secrets left out.

Passwords in addresses, commands that print a passphrase, and what `notify` sends to are replaced
by `***`; a comment that might name one goes. What is left is what a box is set up from again
when nothing but a target is left of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import yaml

LEFT_OUT = "***"

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# RFC 3986, section 3.2.1: what stands before the @ of an authority.
_USER = re.compile(r"(?<=://)[^/?#\s@\"']*@")
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^/?#\s@]*@)?([^/?#\s]*)(.*)", re.I | re.S)
_WITH_HOST = frozenset(
    ("form", "forms", "http", "https", "json", "jsons", "mailto", "mailtos", "xml", "xmls")
)
_SUSPICIOUS = re.compile(r"://|passw|passphrase|secret|token|credential|api.?key", re.I)
_COMMENT = re.compile(r"#[^\n]*")
_NAMED = frozenset(("models", "policies"))  # keys there may be names that somebody chose
_SECRET_KEY = re.compile(r"(passphrase|password|secret|token)(?!.*_file$)", re.I)


@dataclass(frozen=True, slots=True)
class _Scalar:
    """A value: where it is in the text, in characters, and the keys that lead to it."""

    begin: int
    end: int
    text: str
    path: tuple[str, ...]
    is_key: bool


def keepable(data: bytes) -> str:
    """The text of a valid configuration without its secrets."""
    text = data.decode("utf-8-sig")
    parts: list[str] = []
    at = 0
    for scalar in _scalars(text):
        parts.append(_COMMENT.sub(_harmless, text[at : scalar.begin]))
        written = text[scalar.begin : scalar.end]
        parts.append(written if scalar.is_key else _without_secret(scalar, written))
        at = scalar.end
    parts.append(_COMMENT.sub(_harmless, text[at:]))
    return "".join(parts)


def rebuilt(text: str, *, host: str, key_file: str) -> str:
    """A kept text as the configuration of a new box.

    The host is named, where the lost box had only its host name for it; a command that printed
    the passphrase becomes the key file at `key_file`.
    """
    scalars = list(_scalars(text))
    for key, value in pairwise(scalars):
        if not value.is_key and value.path == ("key", "passphrase_command"):
            text = f"{text[: key.begin]}file: {key_file}{_line_end(text, value)}{text[value.end :]}"
    if not any(scalar.is_key and scalar.path == ("host",) for scalar in scalars):
        text = _with_host(text, host)
    return text


def left_out_lines(text: str) -> list[int]:
    """The lines (from 1) in which a secret was left out."""
    return [number for number, line in enumerate(text.splitlines(), 1) if LEFT_OUT in line]


def _with_host(text: str, host: str) -> str:
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.MappingStartEvent):
            at = _index(event.start_mark)
            if event.flow_style:
                return f"{text[: at + 1]}host: {host}, {text[at + 1 :]}"
            return f"{text[:at]}host: {host}\n{text[at:]}"
    return text


def _line_end(text: str, scalar: _Scalar) -> str:
    """The end of line that a block scalar's span takes in."""
    return "\n" if text[scalar.begin : scalar.end].endswith("\n") else ""


def _harmless(comment: re.Match[str]) -> str:
    return f"# {LEFT_OUT}" if _SUSPICIOUS.search(comment[0]) else comment[0]


def _without_secret(scalar: _Scalar, written: str) -> str:
    path = scalar.path
    if path[0] == "notify" and ("urls" in path or "healthcheck" in path):
        return _quoted(_ADDRESS.sub(_bare_address, scalar.text), written)
    if path[0] not in _NAMED and _SECRET_KEY.search(path[-1]):
        return _quoted(LEFT_OUT, written)
    if _USER.search(scalar.text):
        return _quoted(_USER.sub(f"{LEFT_OUT}@", scalar.text), written)
    return written


def _bare_address(address: re.Match[str]) -> str:
    """Scheme and host; a path or a query of a web hook is as good as a password.

    Of most of apprise's schemes even the host is a token.
    """
    scheme, host, rest = address.groups()
    if scheme[:-3].lower() not in _WITH_HOST or "." not in host:
        return scheme + LEFT_OUT
    return f"{scheme}{host}/{LEFT_OUT}" if rest.strip("/") else f"{scheme}{LEFT_OUT}@{host}"


def _quoted(value: str, written: str) -> str:
    quoted = "'" + value.replace("'", "''") + "'"
    return quoted + ("\n" if written.endswith("\n") else "")


def _scalars(text: str) -> Iterator[_Scalar]:
    """Every scalar of a document in its order, with the keys that lead to it."""
    # Of each open mapping its key, None while one is awaited; of each open list "".
    stack: list[str | None] = []
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.MappingStartEvent):
            stack.append(None)
        elif isinstance(event, yaml.SequenceStartEvent):
            stack.append("")
        elif isinstance(event, yaml.CollectionEndEvent):
            stack.pop()
            _value_ended(stack)
        elif isinstance(event, yaml.AliasEvent):
            _value_ended(stack)
        elif isinstance(event, yaml.ScalarEvent):
            is_key = bool(stack) and stack[-1] is None
            if is_key:
                stack[-1] = event.value
            path = tuple(key for key in stack if key)
            yield _Scalar(
                _index(event.start_mark), _index(event.end_mark), event.value, path, is_key
            )
            if not is_key:
                _value_ended(stack)


def _index(mark: Any) -> int:
    """Where a mark is in the text, in characters; the stub has it that there may be none."""
    return int(mark.index)


def _value_ended(stack: list[str | None]) -> None:
    if stack and stack[-1]:
        stack[-1] = None
