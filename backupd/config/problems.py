"""What is wrong with a configuration, put into one sentence with its line and its mend."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backupd.config import schema, schema_daemon, schema_models, schema_targets
from backupd.config.document import Document, Path
from backupd.errors import ConfigError
from backupd.policy.nearest import nearest_names

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

_TARGETS: Mapping[str, type[BaseModel]] = {
    "local": schema_targets.LocalTargetSection,
    "nas": schema_targets.NasTargetSection,
    "s3": schema_targets.S3TargetSection,
}

# The user and password of an address, which must not reach a log.
_USER_PART = re.compile(r"//[^/]*@")
_SECRETS = frozenset(
    {
        "access_key", "access_key_id", "aws_access_key_id", "aws_secret_access_key", "passphrase",
        "passwd", "password", "secret", "secret_access_key", "secret_key", "session_token", "token",
    }
)  # fmt: skip
_SECRET_HINTS = {
    "key": "write it into a file of its own, and name that: passphrase_file:"
    " /etc/backupd/passphrase",
    "targets": "write it into a file of its own, and name that: credentials_file:"
    " /etc/backupd/s3-credentials",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, what, and the mend. `line` is 1-based."""

    file: str
    line: int
    message: str
    hint: str

    def error(self) -> ConfigError:
        """The problem as the error that refuses the configuration."""
        return ConfigError(self.message, file=self.file, line=self.line, hint=self.hint)


def problem_at(document: Document, path: Path, message: str, hint: str) -> Problem:
    """A problem of what stands at `path`; the message begins with its dotted name."""
    where = dotted(path)
    message = f"{where}: {message}" if where else message
    return Problem(document.file, document.line(path), message, hint)


def dotted(path: Path) -> str:
    """`models.llama-ft.exclude[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def empty_values(document: Document) -> list[Problem]:
    """Keys without a value: to say nothing is to leave the key out."""
    found: list[Problem] = []
    pending: list[tuple[Path, Any]] = [((), document.root)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict):
            pending.extend(((*path, key), inner) for key, inner in value.items())
        elif isinstance(value, list):
            pending.extend(((*path, index), inner) for index, inner in enumerate(value))
        elif value is None:
            found.append(
                problem_at(document, path, "has no value", "give it one, or take the line out")
            )
    return found


def schema_problems(document: Document, error: ValidationError) -> list[Problem]:
    """What the schema refused, in the order in which it was met."""
    found: list[Problem] = []
    misspelt: set[Path] = set()
    details = error.errors(include_url=False)
    for detail in details:
        path = _document_path(document, detail)
        if detail["type"] == "extra_forbidden":
            misspelt.add((*path[:-1], _meant(document, path)))
    for detail in details:
        path = _document_path(document, detail)
        if detail["type"] == "missing" and path in misspelt:
            continue
        message, hint = _say(document, path, detail)
        if detail["type"] == "missing":
            path = path[:-1]
        found.append(problem_at(document, path, message, hint))
    return found


def _document_path(document: Document, detail: Any) -> Path:
    """A complaint's location without what is not in the file, such as the tag of a union."""
    location: tuple[str | int, ...] = detail["loc"]
    path: Path = ()
    value: Any = document.root
    for index, part in enumerate(location):
        if (isinstance(value, dict) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        ):
            value = value[part]  # type: ignore[index]
        elif detail["type"] != "missing" or index < len(location) - 1:
            continue
        # Else it is the key that is missing, which comes last.
        path = (*path, part)
    return path


def _section_at(document: Document, path: Path) -> type[BaseModel] | None:
    """The section of the schema that the mapping at `path` is."""
    match path:
        case ():
            return schema.Configuration
        case ("key",):
            return schema.KeySection
        case ("upkeep",):
            return schema_daemon.UpkeepSection
        case ("limits",):
            return schema_daemon.LimitsSection
        case ("limits", "pause_above"):
            return schema_daemon.PauseSection
        case ("notify",):
            return schema_daemon.NotifySection
        case ("status",):
            return schema_daemon.StatusSection
        case ("models", _):
            return schema_models.ModelSection
        case ("models", _, "code"):
            return schema_models.CodeSection
        case ("policies", _):
            return schema_models.PolicySection
        case ("policies", _, "keep_best"):
            return schema_models.KeepBestSection
        case ("targets", _, "prices"):
            return schema_targets.PricesSection
        case ("targets", name):
            targets = document.root.get("targets")
            target = targets.get(str(name)) if isinstance(targets, dict) else None
            kind = target.get("type") if isinstance(target, dict) else None
            return _TARGETS.get(str(kind))
    return None


def _say(document: Document, path: Path, detail: Any) -> tuple[str, str]:
    """Message and hint for one of pydantic's complaints."""
    kind: str = detail["type"]
    value = detail["input"]
    context: Mapping[str, Any] = detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _say_unknown(document, path)
    key = str(path[-1]) if path else ""
    section = _section_at(document, path[:-1])
    example = _example(section, key)
    if kind == "missing":
        return f"{key!r} is missing", f"write {example}" if example else "add it"
    if kind == "value_error":
        sentence, _, hint = str(context["error"]).partition("; ")
        shown = f"{_shown(value)} " if isinstance(value, str) else ""
        return shown + sentence, hint
    hint = f"write, for example, {example}" if example else "see docs/configuration.md"
    if kind in {"union_tag_not_found", "union_tag_invalid"}:
        given = f"'type' is {_shown(value['type'])}" if "type" in value else "'type' is missing"
        return given, "write type: local, type: nas or type: s3"
    if kind in {"greater_than_equal", "less_than_equal"}:
        bound = "least" if "ge" in context else "most"
        limit = context.get("ge", context.get("le"))
        return f"{_shown(value)} is out of range; it is at {bound} {limit}", hint
    if kind == "literal_error":
        expected = str(context["expected"]).replace("'", "")
        return f"{_shown(value)} is not one of the values it can have", f"write {expected}"
    if kind == "too_short":
        return "the list is empty", "name at least one"
    return f"{_shown(value)} {_wanted(kind)}", hint


def _wanted(kind: str) -> str:
    """The end of a sentence about a value of the wrong kind."""
    for beginning, wanted in (
        ("int", "is no whole number"),
        ("float", "is no number"),
        ("bool", "is neither true nor false"),
        ("list", "is no list"),
        ("string", "is no single value"),
        ("is_instance", "is no single value"),
    ):
        if kind.startswith(beginning):
            return wanted
    return "is no mapping of keys to values"


def _say_unknown(document: Document, path: Path) -> tuple[str, str]:
    key = str(path[-1])
    section = _section_at(document, path[:-1])
    if key.lower() in _SECRETS:
        hint = _SECRET_HINTS.get(str(path[0]), _SECRET_HINTS["key"])
        return f"the secret {key!r} has no place in a configuration", hint
    meant = _meant(document, path)
    if meant and key == "encryption":
        return f"unknown key {key!r}", "write key: {encryption: none}"
    if meant:
        return f"unknown key {key!r}", f"did you mean {meant!r}?"
    known = list(section.model_fields) if section else []
    return f"unknown key {key!r}", f"the keys here are {', '.join(known)}"


def _meant(document: Document, path: Path) -> str:
    """The key that an unknown one was meant to be; empty where nothing is like it."""
    if path == ("encryption",):
        return "key"
    section = _section_at(document, path[:-1])
    near = nearest_names(str(path[-1]), section.model_fields if section else (), count=1)
    return near[0] if near else ""


def _example(section: type[BaseModel] | None, key: str) -> str:
    if section is None or key not in section.model_fields:
        return ""
    examples = section.model_fields[key].examples
    return f"{key}: {examples[0]}" if examples else ""


def _shown(value: Any) -> str:
    """A value as it can stand in a sentence."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = _USER_PART.sub("//***@", str(value))
    return repr(text if len(text) <= 80 else text[:77] + "...")
