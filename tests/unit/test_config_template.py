"""The configuration that quickstart writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from backupd.config.load import load_config
from backupd.config.template import name_for, render_template
from backupd.errors import ConfigError

ODD_NAMES = [
    "plain",
    "with blank",
    " edges ",
    "colon: and # hash",
    'it\'s "quoted"',
    "back\\slash",
    "{braces} [brackets] 100%",
    "new\nline\ttab",
    "Modell-ß-模型-🤖",
    "null",
    "*star",
    "bell\x07",
    "nel\x85ls\u2028bom\ufeff",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_quickstarts_file_loads_for_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    text = render_template(
        model_name=name_for(folder),
        model=folder,
        target=tmp_path / (name + "-backups"),
        key_file=tmp_path / (name + ".key"),
        state_dir=tmp_path / (name + "-state"),
    )
    file = tmp_path / "backupd.yaml"
    file.write_text(text)
    settings = load_config(file, {})
    assert settings.models[name_for(folder)].path == folder
    assert settings.targets["disk"].path == tmp_path / (name + "-backups")  # type: ignore[union-attr]
    assert settings.key.file == tmp_path / (name + ".key")
    assert settings.state_dir == tmp_path / (name + "-state")
    assert settings.warnings == ()


def test_a_folder_that_yaml_cannot_name_is_refused_with_the_mend() -> None:
    with pytest.raises(ConfigError, match="is not UTF-8") as caught:
        render_template(
            model_name="m",
            model=Path("/none/\udcff"),
            target=Path("/t"),
            key_file=Path("/k"),
            state_dir=Path("/s"),
        )
    assert "symbolic link" in caught.value.hint


@pytest.mark.parametrize(
    ("folder", "name"),
    [("/runs/llama ft", "llama-ft"), ("/", "model"), ("/runs/模型", "model"),
     ("/x/.hidden", "hidden"), ("/x/" + "a" * 99, "a" * 64), ("/x/no", "no")],
)  # fmt: skip
def test_a_model_is_named_after_its_folder(folder: str, name: str) -> None:
    assert name_for(Path(folder)) == name
