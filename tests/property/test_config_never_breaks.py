"""Whatever the file holds, loading it gives settings or `ConfigError` with a mend, and in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backupd.config.document import read_document
from backupd.config.quantities import format_duration, parse_duration
from backupd.config.template import quote
from tests.support.configurations import check_configuration

EXAMPLE = Path(__file__).resolve().parents[2] / "config/backupd.example.yaml"
EXAMPLE_BYTES = EXAMPLE.read_bytes()
EXAMPLE_VALUE = yaml.safe_load(EXAMPLE_BYTES)


@given(st.binary(max_size=300))
@example(b"\xef\xbb\xbf# a byte order mark\n")
@example(b"[" * 100_000)
@example(b"{a: " * 100_000)
@example(b"- " * 100_000)
@example(b"? " * 100_000)
@example(b"&a [*a]")
@example(b"&a {k: *a}")
@example(b"a: &a\nb: *a\n")
@example(b'key: "\\uD800"\n')
@example(b"key: {file: /k}\r\nhost: a\rb: c\n")
@example(b"%YAML 9.9\n---\na: b\n")
@example(b"{? {a: b} : c}")
@example(b"? |\n  block\n: value\n")
@example(b"*a : b")
@example(b"!<tag:x> a: b")
@example("a:\u2028b\u0085c: d\n".encode())
def test_no_bytes_break_the_loader(data: bytes) -> None:
    check_configuration(data)


@given(st.text(alphabet="ab:{}[]\"'#&*!|>%@`,?- \n\t~<.0\\", max_size=120))
def test_no_punctuation_breaks_the_loader(text: str) -> None:
    check_configuration(text.encode())


@given(st.integers(0, len(EXAMPLE_BYTES) - 1), st.integers(0, 12), st.binary(max_size=6))
def test_no_damage_to_a_good_file_breaks_the_loader(at: int, cut: int, put: bytes) -> None:
    check_configuration(EXAMPLE_BYTES[:at] + put + EXAMPLE_BYTES[at + cut :])


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
KEYS = st.sampled_from(
    ["key", "file", "type", "path", "targets", "policies", "models", "keep_last", "keep_best",
     "schedule", "exclude", "local", "s3", "naming", "limits", "upkeep"]
) | st.text(max_size=6)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += places(inner, (*path, index))
    return found


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(places(EXAMPLE_VALUE)), VALUES)
def test_no_value_at_any_place_breaks_the_loader(path: tuple[Any, ...], new: Any) -> None:
    check_configuration(
        yaml.safe_dump(replaced(EXAMPLE_VALUE, path, new), allow_unicode=True).encode()
    )


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_no_yaml_breaks_the_loader(value: dict[str, Any]) -> None:
    check_configuration(yaml.safe_dump(value, allow_unicode=True).encode())


@given(st.text(min_size=1, max_size=40).filter(lambda text: "\0" not in text))
def test_quickstarts_quoting_reads_back_as_the_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    document = read_document(f"{quote(text)}: [{quote(text)}]\n".encode(), "x")
    assert document.root == {text: [text]}


@given(st.integers(1, 10**9))
def test_a_duration_reads_back_as_what_was_shown(seconds: int) -> None:
    duration = parse_duration(f"{seconds}s")
    assert parse_duration(format_duration(duration)) == duration
