"""The kinds of values that a configuration holds: how each is written, checked and turned.

A check raises `ValueError("what is wrong; the mend")`, to which `problems` adds file and line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from backupd.config.quantities import (
    parse_duration,
    parse_percent,
    parse_rate,
    parse_size,
    parse_time,
)
from backupd.policy.cron import parse_cron
from backupd.policy.naming import DEFAULT_NAMING, parse_layout, parse_template

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html; other stores allow upper
# case and underscores, and they have the last word.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_STORAGE_CLASS = re.compile(r"[A-Z0-9_]{1,64}")


def check_name(text: str) -> str:
    """Return `text` when it can name a model, target, policy, project or host."""
    if not _NAME.fullmatch(text):
        raise ValueError(
            "cannot be a name; use letters, digits, '.', '_' and '-', at most 64, and begin"
            " with a letter or digit"
        )
    return text


def _check_path(text: str) -> str:
    if not text.startswith(("/", "~/")) and text != "~":
        raise ValueError("is not a full path; write it from the root, beginning with / or ~/")
    if ".." in text.split("/"):
        raise ValueError("holds '..'; write the path that it leads to")
    return text


def _check_cron(text: str) -> str:
    parse_cron(text)
    return text


def _check_upkeep_cron(text: str) -> str:
    return "" if text == "never" else _check_cron(text)


def _check_timezone(text: str) -> str:
    # Imported here: most configurations name no zone.
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            "is no time zone that this machine knows; write one of the IANA names, such as"
            " Europe/Berlin or UTC"
        ) from None
    return text


def _check_pattern(text: str) -> str:
    # gitignore(5) has no meaning for these, and pathspec refuses them.
    if not text.strip() or text.strip() in {"!", "/", "!/"}:
        raise ValueError("excludes nothing; write a pattern as in .gitignore, such as tmp-*")
    return text


def _check_naming(text: str) -> str:
    parse_template(text)
    return text


def _check_layout(text: str) -> str:
    # A `/` stands in no word, so a layout that is good with one naming is so with any.
    parse_layout(text, DEFAULT_NAMING)
    return text


def _check_bucket(text: str) -> str:
    if not _BUCKET.fullmatch(text):
        raise ValueError("cannot be a bucket; write its bare name, without s3:// and folders")
    return text


def _check_prefix(text: str) -> str:
    bare = text.strip("/")
    if "//" in bare or any(part in {".", ".."} for part in bare.split("/")):
        raise ValueError("cannot be a prefix; write names joined by single /, such as boxes/box1")
    if len(bare.encode()) > 512 or not bare.isprintable():
        raise ValueError("cannot be a prefix; keep it printable and within 512 bytes")
    return bare


def _check_endpoint(text: str) -> str:
    scheme, mark, rest = text.partition("://")
    if scheme not in {"http", "https"} or not mark or not rest or rest.startswith("/"):
        raise ValueError("is no address; write it with its scheme, such as https://s3.example.org")
    if "@" in rest:
        raise ValueError(
            "holds a user or password; take it out, and name a profile or credentials_file"
        )
    return text.rstrip("/")


def _check_listen(text: str) -> str:
    host, mark, port = text.rpartition(":")
    bare = host.startswith("[") == host.endswith("]") and (":" not in host or host.startswith("["))
    if not (mark and host.strip("[]") and bare and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError("is no place to listen; write HOST:PORT, such as 127.0.0.1:9731")
    return text


def _check_storage_class(text: str) -> str:
    if not _STORAGE_CLASS.fullmatch(text):
        raise ValueError("is no storage class; write one of the store's, such as STANDARD_IA")
    return text


def _check_warm_class(text: str) -> str:
    if text in {"GLACIER", "DEEP_ARCHIVE"}:
        raise ValueError(
            "must be thawed before it is read, and a restore reads metadata to know what to thaw;"
            " write a class that is read at once, such as STANDARD_IA or GLACIER_IR"
        )
    return text


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank; give it a value or take the line out")
    return text


def _read_duration(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    duration = parse_duration(value)
    if not duration:
        raise ValueError("is no time at all; write more than zero, or leave the key out")
    return duration


def _read_policies(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Written:
    """How a value is written, in a word or two for the reference."""

    how: str


_TEXT: dict[str, Any] = {"type": "string"}

Text = Annotated[str, AfterValidator(_check_text), Written("text")]
Name = Annotated[str, AfterValidator(check_name), Written("name")]
FullPath = Annotated[str, AfterValidator(_check_path), Written("full path")]
CronText = Annotated[str, AfterValidator(_check_cron), Written("cron schedule")]
UpkeepCron = Annotated[str, AfterValidator(_check_upkeep_cron), Written("cron schedule or `never`")]
Duration = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    WithJsonSchema({**_TEXT, "pattern": r"^(\d+(\.\d+)?[smhdwy])+$"}),
    Written("duration"),
]
Rate = Annotated[
    int,
    BeforeValidator(lambda value: parse_rate(value) if isinstance(value, str) else value),
    WithJsonSchema({**_TEXT, "pattern": r"^\d+(\.\d+)? *([KkMmGgTt]i?)?[Bb]?(/s)?$"}),
    Written("bytes per second"),
]
Size = Annotated[
    int,
    BeforeValidator(lambda value: parse_size(value) if isinstance(value, str) else value),
    WithJsonSchema({**_TEXT, "pattern": r"^\d+(\.\d+)? *([KkMmGgTt]i?)?[Bb]?$"}),
    Written("size in bytes"),
]
Percent = Annotated[
    float,
    BeforeValidator(lambda value: parse_percent(value) if isinstance(value, str) else value),
    WithJsonSchema({"type": ["string", "number"], "pattern": r"^\d+(\.\d+)?%?$"}),
    Written("percentage"),
]
Price = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False), Written("amount of money")]
Moment = Annotated[
    float,
    BeforeValidator(lambda value: parse_time(value) if isinstance(value, str) else value),
    WithJsonSchema(_TEXT),
    Written("time"),
]
Count = Annotated[int, Field(ge=1, le=100_000)]
Policies = Annotated[
    list[Name],
    BeforeValidator(_read_policies),
    Field(min_length=1),
    WithJsonSchema(
        {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]},
    ),
    Written("policy or list of policies"),
]

TimeZone = Annotated[str, AfterValidator(_check_timezone), Written("time zone")]
Pattern = Annotated[str, AfterValidator(_check_pattern), Written("pattern")]
Naming = Annotated[str, AfterValidator(_check_naming)]
Layout = Annotated[str, AfterValidator(_check_layout)]
Bucket = Annotated[str, AfterValidator(_check_bucket)]
Prefix = Annotated[str, AfterValidator(_check_prefix)]
Endpoint = Annotated[str, AfterValidator(_check_endpoint)]
Listen = Annotated[str, AfterValidator(_check_listen)]
MetadataClass = Annotated[
    str, AfterValidator(_check_storage_class), AfterValidator(_check_warm_class)
]
StorageClass = Annotated[str, AfterValidator(_check_storage_class)]
