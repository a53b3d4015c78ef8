"""The reference of the configuration, made from the schema: `docs/configuration.md`, JSON schema.

`python -m backupd.config.reference > docs/configuration.md` writes it anew; a test compares.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from backupd.config import schema, schema_daemon, schema_models, schema_targets
from backupd.config.quantities import format_duration, format_size
from backupd.config.section import Section
from backupd.config.values import Written

_LARGE = 10**6  # numbers from here on are sizes

_INTRODUCTION = """\
# The configuration

<!-- Made by `python -m backupd.config.reference` from backupd/config/schema*.py; edit those. -->

One YAML file says everything. It is looked for in `$BACKUPD_CONFIG`, then
`~/.config/backupd/backupd.yaml`, then `/etc/backupd/backupd.yaml`; `--config FILE` names another.
[config/backupd.example.yaml](../config/backupd.example.yaml) is a whole one with comments.

- `backupd config check` reads it and says what is wrong, with the line and the mend.
- `backupd config schema` prints a JSON schema, from which editors complete and check as you type.
- `systemctl reload backupd` takes a changed one whole, or not at all.

How values are written:

| kind | written as |
|---|---|
| name | letters, digits, `.`, `_` and `-`, at most 64, beginning with a letter or digit |
| full path | from the root (`/srv/runs`) or from the home (`~/runs`) |
| duration | a number with `s`, `m`, `h`, `d`, `w` or `y` (365 days), or a run of them: `90s`, `2d`, `1d12h` |
| size in bytes | `2GB` (thousand millions), `500MiB` (1024 x 1024) |
| bytes per second | `200MB/s` (millions), `50MiB/s` (1024 x 1024) |
| cron schedule | minute, hour, day of month, month, weekday as in crontab(5), in quotes: `"*/15 * * * *"`; or `"@hourly"`, `"@daily"`, `"@weekly"`, `"@monthly"`, `"@yearly"` |
| percentage | `5%` |
| time | `2026-11-20T14:30`, of this box's time zone, or with one of its own: `2026-11-20T14:30+00:00` |
| pattern | as in `.gitignore`: `"*.lock"`, `/cache/` |

No secret stands in the file: keys, passphrases and credentials are files of their own, which it
names. Unknown keys are refused, and so is a key without a value.
"""  # noqa: E501 - table rows are lines

_HEADINGS: tuple[tuple[str, str, type[Section]], ...] = (
    ("`key`", "key", schema.KeySection),
    ("`targets`: a local disk", "targets", schema_targets.LocalTargetSection),
    ("`targets`: a NAS", "targets", schema_targets.NasTargetSection),
    ("`targets`: an S3-compatible store", "targets", schema_targets.S3TargetSection),
    ("`object_lock` of a store", "object_lock", schema_targets.ObjectLockSection),
    ("`prices` of a store", "prices", schema_targets.PricesSection),
    ("`policies`", "policies", schema_models.PolicySection),
    ("`keep_best` of a policy", "keep_best", schema_models.KeepBestSection),
    ("`models`", "models", schema_models.ModelSection),
    ("`roles` of a model", "roles", schema_models.RolesSection),
    ("`code` of a model", "code", schema_models.CodeSection),
    ("`upkeep`", "upkeep", schema_daemon.UpkeepSection),
    ("`limits`", "limits", schema_daemon.LimitsSection),
    ("`pause_above` of `limits`", "pause_above", schema_daemon.PauseSection),
    ("`notify`", "notify", schema_daemon.NotifySection),
    ("`status`", "status", schema_daemon.StatusSection),
)
_SCALARS: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
}


def render_reference() -> str:
    """The text of `docs/configuration.md`."""
    parts = [_INTRODUCTION, "## The whole\n", _table(schema.Configuration)]
    for heading, _, section in _HEADINGS:
        parts += [f"## {heading}\n", f"{(section.__doc__ or '').strip()}\n", _table(section)]
    return "\n".join(parts)


def json_schema() -> dict[str, Any]:
    """The configuration as a JSON schema (draft 2020-12)."""
    made = schema.Configuration.model_json_schema()
    sections = {section.__name__: section for _, _, section in _HEADINGS}
    for name, definition in made["$defs"].items():
        for key, field in sections[name].model_fields.items():
            if isinstance(field.default, timedelta):
                # pydantic would write it as ISO 8601, which the file does not take.
                definition["properties"][key]["default"] = format_duration(field.default)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _table(section: type[Section]) -> str:
    rows = ["| key | value | without it | what it says | example |", "|---|---|---|---|---|"]
    for key, field in section.model_fields.items():
        written = _written(field.annotation, field.metadata)
        example = f"`{key}: {field.examples[0]}`" if field.examples else ""
        cells = (f"`{key}`", written, _default(field), field.description or "", example)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "refused"
    value = field.get_default()
    if isinstance(value, timedelta):
        return f"`{format_duration(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int) and value >= _LARGE:
        return f"`{format_size(value)}`"
    if isinstance(value, float):
        return f"`{value:g}%`"
    if value in (None, "", []) or field.default_factory is not None:
        return ""
    return f"`{value}`"


def _written(annotation: Any, metadata: list[Any]) -> str:
    """How a value of this type is written."""
    for mark in metadata:
        if isinstance(mark, Written):
            return mark.how
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        return _written(arguments[0], list(arguments[1:]))
    if origin in (Union, UnionType):
        kinds = [_written(part, []) for part in arguments if part is not NoneType]
        return " or ".join(dict.fromkeys(kinds))
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is list:
        return f"list of {_written(arguments[0], [])}s"
    if origin is dict:
        return "mapping by name"
    return _SCALARS.get(annotation, "mapping")


if __name__ == "__main__":
    sys.stdout.write(render_reference())
