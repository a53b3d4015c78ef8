"""How a snapshot is named on the command line."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from backupd.errors import EXIT_USAGE, UsageError
from backupd.policy.naming import DEFAULT_NAMING, parse_template
from backupd.policy.nearest import nearest_names
from backupd.policy.spec import Kind, SnapshotSpec, parse_spec

TEMPLATE = parse_template(DEFAULT_NAMING)


def one(text: str) -> SnapshotSpec:
    (spec,) = parse_spec(text, templates=[TEMPLATE])
    return spec


def at(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("llama@v3", SnapshotSpec("llama@v3", Kind.VERSION, "llama", version=3)),
        ("box-1:llama@v12", SnapshotSpec("box-1:llama@v12", Kind.VERSION, "llama", "box-1", 12)),
        ("llama@latest", SnapshotSpec("llama@latest", Kind.LATEST, "llama")),
        ("llama@best", SnapshotSpec("llama@best", Kind.BEST, "llama")),
        ("llama@best:eval", SnapshotSpec("llama@best:eval", Kind.BEST, "llama", metric="eval")),
        ("llama@release", SnapshotSpec("llama@release", Kind.LABEL, "llama", label="release")),
        (
            "llama@stage=prod",
            SnapshotSpec("llama@stage=prod", Kind.LABEL, "llama", label="stage", value="prod"),
        ),
        (
            "llama@mail=a@b:c",
            SnapshotSpec("llama@mail=a@b:c", Kind.LABEL, "llama", label="mail", value="a@b:c"),
        ),
        ("llama@v0", SnapshotSpec("llama@v0", Kind.LABEL, "llama", label="v0")),
    ],
)
def test_what_stands_behind_the_at_says_which(text: str, spec: SnapshotSpec) -> None:
    assert one(text) == spec


@pytest.mark.parametrize(
    ("date", "before"),
    [
        ("2026-11-23", at(2026, 11, 24)),
        ("20261123", at(2026, 11, 24)),
        ("2026-12-31", at(2027, 1, 1)),
        ("2026-11-23T14:30", at(2026, 11, 23, 14, 31)),
        ("2026-11-23 14:30:05", at(2026, 11, 23, 14, 30, 6)),
        ("2026-11-23T14:30Z", at(2026, 11, 23, 14, 31)),
        ("2026-11-23T14:30+02:00", at(2026, 11, 23, 12, 31)),
    ],
)
def test_a_date_means_to_its_end(date: str, before: float) -> None:
    spec = one(f"llama@{date}")
    assert (spec.kind, spec.before) == (Kind.DATE, before)


def test_a_date_ends_in_the_time_zone() -> None:
    (spec,) = parse_spec("llama@2026-11-23", timezone=ZoneInfo("Europe/Berlin"))
    assert spec.before == at(2026, 11, 23, 23)


def test_a_rendered_name_is_read_before_a_model_of_that_name() -> None:
    readings = parse_spec("llama-ft_20261123_v12", templates=[TEMPLATE])
    assert [(r.kind, r.model, r.version) for r in readings] == [
        (Kind.VERSION, "llama-ft", 12),
        (Kind.LATEST, "llama-ft_20261123_v12", 0),
    ]


def test_a_bare_word_is_a_models_latest_and_then_the_beginning_of_an_id() -> None:
    assert [r.kind for r in parse_spec("llama")] == [Kind.LATEST]
    assert [(r.kind, r.model, r.id_prefix) for r in parse_spec("DEADbeef")] == [
        (Kind.LATEST, "DEADbeef", ""),
        (Kind.ID, "", "deadbeef"),
    ]
    assert [(r.host, r.model) for r in parse_spec("box:llama")] == [("box", "llama")]


@pytest.mark.parametrize(
    "text",
    ["", "@v3", "llama@", "a b@v1", ":llama@v1", "a:b:llama@v1", "llama@=x", "no such", "x:",
     "llama@2026-02-30", "llama@2026-11-23T25:00", "llama@9999-12-31"],
)  # fmt: skip
def test_what_cannot_name_a_snapshot_is_refused_with_how_to(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_spec(text)
    assert caught.value.hint
    assert caught.value.exit_code == EXIT_USAGE


def test_the_nearest_names_are_those_that_look_alike() -> None:
    known = ["llama-ft", "llama-base", "embeddings", "Whisper"]
    assert nearest_names("lama-ft", known)[0] == "llama-ft"
    assert nearest_names("WHISPR", known) == ("Whisper",)
    assert nearest_names("zzz", known) == ()
