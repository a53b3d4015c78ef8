"""Settings of two snapshots are told key by key, and hostile ones cost bounded time and memory."""

from __future__ import annotations

import json
import time
import tracemalloc

import pytest

from backupd.operations.diff_configs import ConfigChange, compare_configs
from backupd.operations.diff_files import Pair
from backupd.repository.tree import FileType, Metadata, TreeEntry


def compared(name: str, was: bytes, now: bytes) -> ConfigChange:
    sides = was, now

    def entry(content: bytes) -> TreeEntry:
        metadata = Metadata(0o644, 0, 0, 0, 0, 1, 1, len(content), "", "", {})
        return TreeEntry(name.encode(), FileType.FILE, metadata)

    (change,) = compare_configs([Pair(entry(was), entry(now))], lambda side, _: sides[side])
    return change


@pytest.mark.parametrize(
    ("name", "was", "now"),
    [
        ("config.json", b'{"a": {"b": [1, 2]}}', b'{"a": {"b": [1, 3]}}'),
        ("config.yaml", b"a: {b: [1, 2]}", b"a:\n  b:\n  - 1\n  - 3\n"),
        ("config.toml", b"a.b = [1, 2]", b"[a]\nb = [1, 3]"),
    ],
)
def test_a_changed_setting_is_told_by_its_key(name: str, was: bytes, now: bytes) -> None:
    change = compared(name, was, now)
    assert [(s.key, s.change, s.old, s.new) for s in change.settings] == [
        ("a.b[1]", "changed", 2, 3)
    ]
    assert not change.note


def test_a_pair_of_yaml_is_told_by_its_parts() -> None:
    change = compared("config.yaml", b"a: !!pairs [k: 1]", b"a: !!pairs [k: 2]")
    assert [s.key for s in change.settings] == ["a[0][1]"]


HUGE = b"0x" + b"f" * 10_000
LAUGHS = b"- !!pairs\n  - k: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"  - k: &%c [%s]\n" % (name + 1, b", ".join([b"*%c" % name] * 9)) for name in range(97, 104)
)
MERGES = b"a: &a {%s}\n" % b", ".join(b"k%d: 1" % n for n in range(9)) + b"".join(
    b"%c: &%c {<<: [%s]}\n" % (name + 1, name + 1, b", ".join([b"*%c" % name] * 9))
    for name in range(97, 104)
)
HOSTILE = {
    "one long key before many values": (
        "config.json",
        json.dumps({"k" * 500_000: [1] * 19_000}).encode(),
        "keys are too long",
    ),
    "a number too large for digits": ("config.yaml", b"a: " + HUGE, "too large"),
    "such a number as a key": ("config.yaml", b"? " + HUGE + b"\n: 1\n", "too large"),
    "such a number in TOML": ("config.toml", b"a = " + HUGE, "too large"),
    "a key of very many parts": ("config.toml", b".".join([b"a"] * 400_000) + b" = 1", "dots"),
    "pairs that hold each other": ("config.yaml", LAUGHS, "too many values"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_settings_are_not_compared_and_cost_little(what: str) -> None:
    name, content, note = HOSTILE[what]
    tracemalloc.start()
    started = time.process_time()
    change = compared(name, content, b"{}" if name.endswith("json") else b"")
    spent = time.process_time() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert note in change.note
    assert not change.settings
    assert spent < 10
    assert peak < 100 << 20


def test_mappings_that_merge_each_other_cost_little() -> None:
    started = time.process_time()
    change = compared("config.yaml", MERGES, b"")
    assert time.process_time() - started < 10
    assert change.settings or change.note
