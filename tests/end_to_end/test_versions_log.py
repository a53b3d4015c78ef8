"""`log` draws the history, `diff` tells settings and metrics, and names work where they should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.rigs.command_line import CommandLine


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """Versions 1 to 6 of `llama`: v4 and v6 on v2, by switches."""
    base = tmp_path_factory.mktemp("log")
    backupd = CommandLine(base / "home", in_process=True)
    backupd.home.mkdir()
    model = base / "llama"
    model.mkdir()
    (model / "config.json").write_text('{"lr": 0.0001, "layers": [1, 2], "name": "a"}')
    backupd.ok("quickstart", model, "--once")
    (model / "config.json").write_text('{"lr": 0.0002, "layers": [1, 2, 3], "drop": null}')
    (model / "hparams.yaml").write_text("a: 1\nb: &x [1]\nc: *x\n")
    backupd.ok("snapshot", "--metric", "loss=2", "--metric", "acc=0.5", "--label", "release=1.0")
    for version in (3, 4, 5):
        if version == 4:
            backupd.ok("switch", "llama", "v2")
        (model / "notes").write_text(f"for v{version}")
        backupd.ok("snapshot", "--metric", f"loss={2 - version / 10}")
    backupd.ok("switch", "llama", "2")
    (model / "hparams.yaml").write_text("{a: 1, b: [1], c: [1]}")
    backupd.ok("snapshot", "--scheme", "model+params")
    return backupd


def graph(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def test_the_history_is_drawn_with_all_that_is_known(made: CommandLine) -> None:
    out = made.ok("log", "llama").out
    assert all(len(line) <= 80 for line in graph(out))
    stars = [line for line in graph(out) if "*" in line]
    assert [line.split()[line.split().index("*") + 1] for line in stars if "*" in line.split()]
    assert stars[0].startswith("*  v6")
    assert stars[0].endswith("on v2  (here)")
    assert stars[1].startswith("| *  v5")
    assert stars[3].startswith("| | *  v3")
    assert "(release=1.0)" in stars[4]
    assert stars[5].endswith("first")
    assert "|_|/" in graph(out)
    assert "loss=1.5" in out
    assert "model+params" in out
    limited = made.ok("log", "llama", "--limit", "2").out
    assert "and 4 more versions" in limited
    assert "v3" not in limited


def test_the_history_as_a_document(made: CommandLine) -> None:
    versions = made.ok("log", "llama", "--json").document["versions"]
    assert [v["version"] for v in versions] == [6, 5, 4, 3, 2, 1]
    assert [v["stands_on"] for v in versions] == [2, 4, 2, 2, 1, None]
    assert [v["here"] for v in versions] == [True, False, False, False, False, False]


def test_a_model_without_versions_is_4(made: CommandLine) -> None:
    answer = made("log", "lama")
    assert answer.code == 4
    assert "llama" in answer.err


def test_diff_tells_which_settings_and_metrics_changed(made: CommandLine) -> None:
    document = made.ok("diff", "llama@v1", "llama@v2", "--json").document
    [config] = document["configs"]
    assert config["path"] == "config.json"
    assert config["settings"] == [
        {"key": "lr", "change": "changed", "old": 0.0001, "new": 0.0002},
        {"key": "name", "change": "removed", "old": "a", "new": None},
        {"key": "layers[2]", "change": "added", "old": None, "new": 3},
        {"key": "drop", "change": "added", "old": None, "new": None},
    ]
    out = made.ok("diff", "llama@v2", "llama@v3").out
    rows = [line.split() for line in out.splitlines()]
    assert ["acc", "0.5", "gone"] in rows
    assert ["loss", "2", "1.7", "-0.3", "-15", "%"] in rows
    assert made.ok("diff", "llama@v1", "llama@v2", "--files", "--json").document["configs"] == []
    same = made.ok("diff", "llama@v2", "llama@v6").out
    assert "hparams.yaml: the settings are the same, written otherwise" in same


def test_hostile_configurations_are_no_trouble(tmp_path: Path) -> None:
    backupd = CommandLine(tmp_path / "home", in_process=True)
    backupd.home.mkdir()
    model = tmp_path / "m"
    model.mkdir()
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    hostile = {
        "bomb.yaml": bomb,
        "deep.config.json": "[" * 100_000,
        "tags.yaml": "!!python/object/apply:os.system ['touch /tmp/pwned']",
        "date.yaml": "a: 2026-99-99",
        "latin.config.json": b'{"a": "\xff"}',
        "nan.config.json": '{"a": NaN, "\\ud800": "\\ud800"}',
        "bad.toml": "a = ",
    }
    for text in ("1", "2"):
        for name, content in hostile.items():
            data = content if isinstance(content, bytes) else content.encode()
            (model / name).write_bytes(data + b" " * int(text))
        if text == "1":
            backupd.ok("quickstart", model, "--once")
        else:
            backupd.ok("snapshot")
    document = backupd.ok("diff", "m@v1", "m@v2", "--json").document
    notes = {config["path"]: config["note"] for config in document["configs"]}
    assert notes.keys() == hostile.keys()
    assert notes.pop("nan.config.json") is None
    assert all(notes.values()), notes
    json.dumps(document, allow_nan=False)
    assert "settings not compared" in backupd.ok("diff", "m@v1", "m@v2").err
