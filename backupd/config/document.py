"""A YAML file as plain mappings, lists and strings, with the line of everything in it.

Only the bounded reading of YAML lives here; what the keys mean is `schema`'s. The text is read
event by event, without recursion, so that no nesting and no alias can exhaust the box.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from backupd.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 16
MAX_NODES = 20_000

Value: TypeAlias = "dict[str, Value] | list[Value] | str | None"
Path: TypeAlias = tuple[str | int, ...]

# The stub of PyYAML leaves the C loader untyped, and a build without libyaml has none.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
# YAML 1.1 section 5.1: everything else below the space cannot stand in a stream.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# Line breaks to YAML (1.1, section 4.2), and to no editor that shows the line of an error.
_HIDDEN_BREAK = re.compile("[\x85\u2028\u2029]")
_NEEDS_QUOTES = frozenset({"*", "@", "`", "%"})
_AFTER_BRACE = re.compile(r"\}\s*[^\s,#}\]]")
_TAB_INDENT = re.compile(r"[ ]*\t[ \t]*[^\s#]")


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says. Scalars are strings as written (`None` where there is nothing).

    Strings are left to the schema to turn into numbers: YAML 1.1's own guesses make `no` a
    boolean, `010` eight and `12:30` an integer.
    """

    file: str
    root: dict[str, Value]
    lines: dict[Path, int]

    def line(self, path: Path) -> int:
        """The 1-based line of the key or item at `path`, or of the nearest thing around it."""
        for length in range(len(path), 0, -1):
            line = self.lines.get(path[:length])
            if line is not None:
                return line
        return 1


@dataclass(slots=True)
class _Frame:
    """A mapping or list that is being read."""

    value: dict[str, Value] | list[Value]
    path: Path
    line: int
    anchor: str | None
    nodes_before: int
    key: str | None = None


@dataclass(slots=True)
class _Reader:
    """The state of reading one file."""

    file: str
    lines: dict[Path, int] = field(default_factory=dict)
    stack: list[_Frame] = field(default_factory=list)
    anchors: dict[str, tuple[Value, int]] = field(default_factory=dict)
    nodes: int = 0
    root: Value = None

    def error(self, line: int, message: str, hint: str) -> ConfigError:
        return ConfigError(message, file=self.file, line=line, hint=hint)

    def count(self, line: int, nodes: int) -> None:
        """Aliases count as what they stand for, so a bomb is found before it is built."""
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise self.error(
                line,
                f"the file holds more than {MAX_NODES} values, aliases counted as what they"
                " stand for",
                "write fewer models into one file, and take out aliases of aliases",
            )

    def read(self, text: str) -> Value:
        loader = _LOADER(text)
        try:
            documents = 0
            while loader.check_event():
                event: Any = loader.get_event()
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        raise self.error(
                            _line(event),
                            "a second YAML document begins here",
                            "keep one configuration in one file, and take out the '---'",
                        )
                else:
                    self.take(event)
        except yaml.YAMLError as error:
            raise _syntax_error(self.file, text, error) from None
        finally:
            loader.dispose()
        return self.root

    def take(self, event: Any) -> None:
        """Handle one event of a node's beginning or end; others carry nothing."""
        line = _line(event)
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            frame = self.stack.pop()
            self.remember(frame.anchor, frame.value, self.nodes - frame.nodes_before)
            return
        if not isinstance(event, yaml.NodeEvent):
            return
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise self.error(
                line,
                f"the tag {tag!r} has no place in a configuration",
                "take the tag out; values are written plainly",
            )
        if isinstance(event, yaml.AliasEvent):
            self.take_alias(event.anchor or "", line)
        elif isinstance(event, yaml.ScalarEvent):
            self.count(line, 1)
            plain = event.implicit[0]
            value = None if plain and event.value in _NULLS else event.value
            if value is not None and "\x00" in value:
                raise self.error(
                    line, "a value holds a NUL character", "take the \\0 out of the value"
                )
            self.remember(event.anchor, value, 1)
            self.place(value, line, text=event.value)
        else:
            self.count(line, 1)
            self.open(event, line)

    def take_alias(self, name: str, line: int) -> None:
        if name not in self.anchors:
            raise self.error(
                line,
                f"the alias *{name} stands for nothing that was given before it",
                f"give it with &{name} further up; or, where a value begins with *, put the value"
                " in quotes",
            )
        value, size = self.anchors[name]
        self.count(line, size)
        self.place(value, line, text=value if isinstance(value, str) else None)

    def open(self, event: Any, line: int) -> None:
        if len(self.stack) >= MAX_DEPTH:
            raise self.error(
                line,
                f"values are nested more than {MAX_DEPTH} deep",
                "no part of a configuration nests that deep; look for brackets left open",
            )
        value: dict[str, Value] | list[Value]
        value = {} if isinstance(event, yaml.MappingStartEvent) else []
        before = self.nodes
        path = self.place(value, line, text=None)
        self.stack.append(_Frame(value, path, line, event.anchor, before))

    def remember(self, anchor: str | None, value: Value, size: int) -> None:
        if anchor is not None:
            self.anchors[anchor] = (value, size)

    def place(self, value: Value, line: int, *, text: str | None) -> Path:
        """Put a node where it stands; `text` is its own text when it can be a key."""
        if not self.stack:
            self.root = value
            return ()
        frame = self.stack[-1]
        if isinstance(frame.value, list):
            path = (*frame.path, len(frame.value))
            frame.value.append(value)
            self.lines[path] = line
            return path
        if frame.key is None:
            frame.key = self.key(frame, text, line)
            return frame.path
        path = (*frame.path, frame.key)
        frame.value[frame.key] = value
        frame.key = None
        return path

    def key(self, frame: _Frame, text: str | None, line: int) -> str:
        if text is None:
            raise self.error(
                line,
                "a mapping or list stands where a key is expected",
                "put the value in quotes if it begins with { or [",
            )
        if text == "<<":
            raise self.error(
                line,
                "merge keys (<<) are not supported",
                "write the keys out, or use an alias for the whole value",
            )
        path = (*frame.path, text)
        first = self.lines.get(path)
        if first is not None:
            raise self.error(
                line,
                f"the key {text!r} stands twice, first on line {first}",
                "keep one of the two",
            )
        self.lines[path] = line
        return text


def read_document(data: bytes, file: str) -> Document:
    """Read the YAML in `data`; `file` is only named in errors.

    Raises `ConfigError` with file, line and mend for whatever is no mapping in plain YAML.
    """
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"the file is larger than {MAX_BYTES >> 20} MiB, and so is no configuration",
            file=file,
            hint="see docs/configuration.md for what belongs into it",
        )
    text = _decode(data, file)
    reader = _Reader(file)
    root = reader.read(text)
    if root is None:
        raise ConfigError(
            "the file is empty",
            file=file,
            hint="write one with 'backupd quickstart DIR'",
        )
    if not isinstance(root, dict):
        kind = "a list" if isinstance(root, list) else "a single value"
        raise ConfigError(
            f"the file holds {kind}, and not keys with values",
            file=file,
            line=1,
            hint="begin with keys such as 'targets:' and 'models:' at the left edge",
        )
    return Document(file, root, reader.lines)


def _line(event: Any) -> int:
    line: int = event.start_mark.line + 1
    return line


def _decode(data: bytes, file: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"byte 0x{data[error.start]:02x} is not UTF-8",
            file=file,
            line=data.count(b"\n", 0, error.start) + 1,
            hint="save the file as UTF-8",
        ) from None
    control = _CONTROL.search(text)
    if control is not None:
        raise ConfigError(
            f"a control character (0x{ord(control[0]):02x}) stands in the file",
            file=file,
            line=text.count("\n", 0, control.start()) + 1,
            hint="take it out; in a quoted value it can be written as \\xNN",
        )
    hidden = _HIDDEN_BREAK.search(text)
    if hidden is not None:
        code = f"{ord(hidden[0]):04x}"
        raise ConfigError(
            f"a line break that is not seen (U+{code.upper()}) stands in the file",
            file=file,
            line=text.count("\n", 0, hidden.start()) + 1,
            hint=f"take it out; in a quoted value it can be written as \\u{code}",
        )
    return text


def _syntax_error(file: str, text: str, error: yaml.YAMLError) -> ConfigError:
    """The parser's complaint in words, with the mend for what people really write."""
    problem = getattr(error, "problem", None) or "it is not YAML"
    context = getattr(error, "context", None) or ""
    opened = getattr(error, "context_mark", None)
    mark = getattr(error, "problem_mark", None) or opened
    number = mark.line + 1 if mark is not None else 0
    rows = text.split("\n")
    row = rows[number - 1] if 0 < number <= len(rows) else ""
    key, _, value = (part.strip() for part in row.partition(":"))
    at_end = number >= len(rows) or not "".join(rows[number:]).strip()
    if _TAB_INDENT.match(row):
        message, hint = "the line is indented with a tab", "indent with spaces"
    elif value[:1] in _NEEDS_QUOTES or (value.startswith("{") and _AFTER_BRACE.search(value)):
        message = f"a value that begins with {value[0]} is not in quotes"
        hint = f"put it in quotes: {key}: {_quote(value)}"
    elif problem.startswith("mapping values are not allowed"):
        message = "a ': ' stands where no key can be"
        hint = "indent keys of one mapping alike, and put values that hold ': ' in quotes"
    elif opened is not None and "quoted scalar" in context and at_end:
        number = opened.line + 1
        message, hint = "the quote that opens here is not closed", "close it"
    elif opened is not None and "flow" in context:
        number = opened.line + 1
        message = "the bracket that opens here is not closed, or a comma is missing in it"
        hint = "close it, and put a comma between its parts"
    else:
        message = f"this is not YAML: {problem}" + (f" ({context})" if context else "")
        hint = "look for a missing quote, bracket or colon here or on the line before"
    return ConfigError(message, file=file, line=number, hint=hint)


def _quote(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
