"""What people write: configurations, names, schedules, quantities, and the settings of models."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import yaml

import backupd.policy.retention  # noqa: F401 - here, as what comes late the fuzzer cannot follow
from backupd.config.quantities import (
    format_duration,
    format_size,
    parse_duration,
    parse_percent,
    parse_rate,
    parse_size,
    parse_time,
)
from backupd.errors import UsageError
from backupd.operations.diff_configs import compare_configs
from backupd.operations.diff_files import Pair
from backupd.policy.cron import parse_cron
from backupd.policy.naming import NameWords, TemplateKind, parse_layout, parse_template
from backupd.policy.spec import parse_spec
from backupd.repository.tree import FileType, Metadata, TreeEntry
from tests.support.configurations import check_configuration
from tests.torture.fuzzing.target import Target

EXAMPLE = (Path(__file__).parents[3] / "config" / "backupd.example.yaml").read_bytes()


def text_of(data: bytes) -> str:
    """As the arguments of a command reach it."""
    return data.decode("utf-8", "surrogateescape")


def in_words(parse: Callable[[str], object], text: str) -> object:
    """What `parse` makes of `text`; None where it refuses it and says what would be right."""
    try:
        return parse(text)
    except ValueError as error:
        assert "; " in str(error), f"refused as {error}"
        return None


# -- configurations -------------------------------------------------------------------------------


def pieces_of(example: bytes) -> tuple[bytes, ...]:
    """The example as a whole and each of its sections alone, which mutate faster."""
    value = yaml.safe_load(example)
    alone = [yaml.safe_dump({key: part}).encode() for key, part in value.items()]
    return (example, yaml.safe_dump(value).encode(), *alone)


YAML_WORDS = (b"&a ", b"*a", b"<<: ", b"!!", b"? ", b"- ", b": ", b"{}", b"[]",
              b"|\n", b'"\\uD800"', b"---\n", b"%YAML 1.1", b"\xc2\x85", b"\xe2\x80\xa8", b"~",
              b"\t")  # fmt: skip

# -- names ----------------------------------------------------------------------------------------

KINDS = tuple(TemplateKind)
WORDS = NameWords("m.1", 3, "p", "h", "2026-11-23", 5, {"k": "a b"}, ".tar")


def check_template(data: bytes) -> None:
    kind, text = KINDS[data[0] % len(KINDS)] if data else KINDS[0], text_of(data[1:])
    template = in_words(lambda text: parse_template(text, kind), text)
    if template is not None:
        name = template.render(WORDS)
        found = template.parse(name)
        assert found is not None
        assert template.render(found) == name
        if kind is not TemplateKind.PATTERN:
            assert (found.model, found.version) == (WORDS.model, WORDS.version)


NAMINGS = (
    parse_template("{model_name}_{YYYYMMDD}_v{version}"),
    parse_template("{host}+{model}+{version}+{label.k}+{step}"),
    parse_layout("{project_name}/{date}/", "{model}_v{version}"),
)


def check_name(data: bytes) -> None:
    name = text_of(data)
    for template in NAMINGS:
        words = template.parse(name)
        assert words is None or template.render(words) == name


def check_spec(data: bytes) -> None:
    try:
        found = parse_spec(text_of(data), templates=NAMINGS)
    except UsageError as error:
        assert error.message and error.hint
    else:
        assert found


# -- schedules and quantities ---------------------------------------------------------------------


def check_cron(data: bytes) -> None:
    cron = in_words(parse_cron, text_of(data))
    if cron is not None:
        moment = datetime(2027, 3, 1, 12, 30)
        assert next(cron.after(moment)) > moment


def check_quantity(data: bytes) -> None:
    text = text_of(data)
    for parse, form in (
        (parse_duration, format_duration),
        (parse_size, format_size),
        (parse_rate, None),
        (parse_percent, None),
        (parse_time, None),
    ):
        value = in_words(parse, text)
        if value is not None and form is format_size:
            assert parse(form(value)) == value


# -- settings that two snapshots hold -------------------------------------------------------------

ENDINGS = ("config.json", "config.yaml", "config.toml")
BETWEEN = b"\xff\xfe"


def check_settings(data: bytes) -> None:
    name = ENDINGS[data[0] % 3] if data else ENDINGS[0]
    was, _, now = data[1:].partition(BETWEEN)
    sides = was, now

    def entry(content: bytes) -> TreeEntry:
        metadata = Metadata(0o644, 0, 0, 0, 0, 1, 1, len(content), "", "", {})
        return TreeEntry(name.encode(), FileType.FILE, metadata)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changes = list(compare_configs([Pair(entry(was), entry(now))], lambda n, _: sides[n]))
    for change in changes:
        for setting in change.settings:
            # As they are told: in a table, and as JSON.
            f"{setting.key} {setting.old} {setting.new}".encode("utf-8", "replace")
            json.dumps([setting.key, setting.old, setting.new])


def settings_of(*texts: Sequence[bytes]) -> tuple[bytes, ...]:
    return tuple(bytes([number]) + was + BETWEEN + now for number, (was, now) in enumerate(texts))


TARGETS = {
    "configuration": Target(
        check_configuration, pieces_of(EXAMPLE), (), YAML_WORDS, most_bytes=16384, seconds=5.0
    ),
    "template": Target(
        check_template,
        tuple(
            bytes([number % 3]) + template.text.encode() for number, template in enumerate(NAMINGS)
        ),
        (),
        tuple(
            b"{%s}" % word
            for word in (
                b"model",
                b"version",
                b"date",
                b"YYYYMMDD",
                b"label.k",
                b"host",
                b"step",
                b"ext",
                b"project_name",
                b"model_name",
            )
        ),
        most_bytes=512,
        seconds=5.0,
    ),
    "name": Target(
        check_name, tuple(template.render(WORDS).encode() for template in NAMINGS), most_bytes=1200
    ),
    "snapshot as it is typed": Target(
        check_spec,
        (
            b"m@v3",
            b"h:m@latest",
            b"m@best:loss",
            b"m@2026-11-23T10:00:00+02:00",
            b"m@k=v",
            b"abcd12",
        ),
        most_bytes=512,
    ),
    "schedule": Target(
        check_cron,
        (b"*/15 * * * *", b"@daily", b"0 3 29 feb *", b"1-5,7 0 1 jan-mar mon-fri"),
        (),
        (b"*/", b"-", b",", b"sun", b"29", b"@weekly"),
    ),
    "quantity": Target(
        check_quantity, (b"1d12h", b"200MB/s", b"512MiB", b"5%", b"2026-11-20T14:30+00:00")
    ),
    "settings of a model": Target(
        check_settings,
        settings_of(
            (b'{"a": {"b": [1, 2.5, null]}, "c": "d"}', b'{"a": {"b": [1, 3]}, "e": true}'),
            (b"a: {b: [1, 2.5, ~]}\nc: d\nt: 2026-01-01\n", b"a: &x {b: 1}\ne: *x\nf: {<<: *x}\n"),
            (b"a.b = [1, 2.5]\nc = 'd'\n[t]\nx = 2026-01-01\n", b"a.b = [1]\nn = 0xff\n"),
        ),
        (),
        (*YAML_WORDS, BETWEEN, b"0x", b"[[t]]\n", b"1e400", b"nan", b"'''"),
    ),
}
