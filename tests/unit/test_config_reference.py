"""The reference and the JSON schema say what the schema says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backupd.config.quantities import parse_duration
from backupd.config.reference import json_schema, render_reference
from backupd.config.schema import Configuration
from backupd.config.schema_models import ModelSection, PolicySection
from backupd.config.schema_targets import S3TargetSection

ROOT = Path(__file__).resolve().parents[2]


def test_the_committed_reference_is_the_generated_one() -> None:
    assert (ROOT / "docs/configuration.md").read_text() == render_reference()


def test_the_reference_describes_every_key() -> None:
    text = render_reference()
    for section in (Configuration, ModelSection, PolicySection, S3TargetSection):
        for key, field in section.model_fields.items():
            assert f"| `{key}` |" in text
            assert field.description


def test_the_json_schema_refuses_unknown_keys_everywhere() -> None:
    made = json_schema()
    json.dumps(made)
    assert made["additionalProperties"] is False
    for definition in made["$defs"].values():
        assert definition["additionalProperties"] is False


def test_defaults_in_the_json_schema_can_be_written_as_they_stand() -> None:
    target: dict[str, Any] = json_schema()["$defs"]["S3TargetSection"]["properties"]
    assert parse_duration(target["read_timeout"]["default"]).total_seconds() == 60
