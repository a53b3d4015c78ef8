"""The kept copy of a configuration is what loading gives, or it is not used."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from backupd.config import cache
from backupd.config.cache import load_config_quickly
from backupd.config.load import load_config
from backupd.errors import ConfigError

WHOLE = """\
state_dir: ~/state
host: box1
key: {file: ~/key}
targets:
  disk: {type: local, path: /var/backups/models}
  nas: {type: nas, path: /mnt/nas/models, require_mount: false}
  s3: {type: s3, bucket: team-models, prefix: box1, endpoint_url: https://s3.example.org}
policies:
  working: {keep_last: 5, keep_within: 2d12h}
  archive: {keep_weekly: 8, keep_labels: [release], keep_best: {metric: loss, mode: min, count: 3}}
models:
  llama-ft:
    path: /srv/runs/llama-ft
    schedule: "*/15 * * * *"
    exclude: ["tmp-*", "*.lock"]
    targets: {disk: working, nas: [working, archive], s3: archive}
limits: {upload: 200MB/s}
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home")}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "backupd.yaml"
    path.write_text(WHOLE)
    return path


def copy_of(environment: dict[str, str]) -> Path:
    [copy] = Path(environment["HOME"], ".cache/backupd").iterdir()
    return copy


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were loaded in full."""
    loaded: list[Path] = []

    def load(path: Path, environment: Any) -> Any:
        loaded.append(path)
        return load_config(path, environment)

    monkeypatch.setattr(cache, "_load", load)
    return loaded


def test_the_copy_is_all_that_loading_gives(
    config: Path, environment: dict[str, str], loads: list[Path]
) -> None:
    whole = load_config(config, environment)
    assert load_config_quickly(config, environment) == whole
    assert load_config_quickly(config, environment) == whole
    assert len(loads) == 1
    assert copy_of(environment).stat().st_mode & 0o777 == 0o600


def test_a_changed_file_is_loaded_anew(
    config: Path, environment: dict[str, str], loads: list[Path]
) -> None:
    load_config_quickly(config, environment)
    about = config.stat()
    config.write_text(WHOLE.replace("box1", "box2"))
    os.utime(config, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert load_config_quickly(config, environment).host == "box2"
    assert len(loads) == 2


def test_another_environment_is_loaded_anew(
    config: Path, environment: dict[str, str], loads: list[Path], tmp_path: Path
) -> None:
    load_config_quickly(config, environment)
    shutil.copytree(environment["HOME"], tmp_path / "other")
    moved = load_config_quickly(config, {"HOME": str(tmp_path / "other")})
    assert moved.state_dir == tmp_path / "other/state"
    assert len(loads) == 2


def test_with_systemds_credentials_the_copy_is_neither_read_nor_made(
    config: Path, environment: dict[str, str], loads: list[Path], tmp_path: Path
) -> None:
    environment["CREDENTIALS_DIRECTORY"] = str(tmp_path)
    load_config_quickly(config, environment)
    load_config_quickly(config, environment)
    assert len(loads) == 2
    assert not Path(environment["HOME"]).exists()


def spoil_mode(copy: Path) -> None:
    copy.chmod(0o622)


def spoil_json(copy: Path) -> None:
    copy.write_text("{")


def spoil_shape(copy: Path) -> None:
    document = json.loads(copy.read_text())
    document["settings"]["fields"].pop("targets")
    copy.write_text(json.dumps(document))


def spoil_kind(copy: Path) -> None:
    document = json.loads(copy.read_text())
    document["settings"] = {"value": "Popen", "fields": {"args": "true"}}
    copy.write_text(json.dumps(document))


@pytest.mark.parametrize("spoil", [spoil_mode, spoil_json, spoil_shape, spoil_kind])
def test_a_copy_that_is_not_right_is_made_anew(
    config: Path, environment: dict[str, str], loads: list[Path], spoil: Any
) -> None:
    whole = load_config_quickly(config, environment)
    spoil(copy_of(environment))
    assert load_config_quickly(config, environment) == whole
    assert load_config_quickly(config, environment) == whole
    assert len(loads) == 2


def test_where_nothing_can_be_kept_it_is_loaded_each_time(
    config: Path, environment: dict[str, str], loads: list[Path]
) -> None:
    Path(environment["HOME"]).write_text("a file where a folder should be")
    whole = load_config(config, environment)
    assert load_config_quickly(config, environment) == whole
    assert load_config_quickly(config, environment) == whole
    assert len(loads) == 2


def test_a_broken_configuration_is_refused_and_not_kept(
    config: Path, environment: dict[str, str]
) -> None:
    config.write_text(WHOLE.replace("targets:", "targest:"))
    with pytest.raises(ConfigError):
        load_config_quickly(config, environment)
    assert not Path(environment["HOME"]).exists()
