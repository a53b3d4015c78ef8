"""The commented configuration that `quickstart` writes, for a folder of any name."""

from __future__ import annotations

import re
from pathlib import Path

from backupd.errors import ConfigError

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9/._-]*")
# Plain scalars that YAML 1.1 or this configuration read as something else than text.
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}

_TEMPLATE = """\
# Made by `backupd quickstart`. Every key is described in docs/configuration.md, and
# `backupd config check` says what is wrong after a change.

# Where the daemon keeps its state and its control socket.
state_dir: {state_dir}

# The key of the repository. Without this file and without the recovery key, nothing in the
# repository can be read by anyone: keep the recovery key somewhere else than on this machine.
key: {{file: {key_file}}}

# How snapshots are named for people.
naming: "{{model_name}}_{{YYYYMMDD}}_v{{version}}"

# The places that hold the snapshots. Losing this disk loses a repository on it: add a second
# target on another machine, such as
#   nas: {{type: nas, path: /mnt/nas/models}}
#   s3: {{type: s3, bucket: team-models, prefix: box1, endpoint_url: https://s3.example.org}}
# run `backupd init` again, and give it to the model below.
targets:
  disk: {{type: local, path: {target}}}

# Which snapshots are kept. One stays when any rule keeps it, and the newest always does.
# `backupd policy {model_name} --simulate 90d` shows what that comes to.
policies:
  working: {{keep_last: 5, keep_within: 2d, keep_hourly: 24, keep_daily: 7, keep_weekly: 4}}

# The folders that are watched.
models:
  {model_key}:
    path: {model}
    # Every five minutes, and nothing is stored where nothing changed.
    schedule: "*/5 * * * *"
    # What to leave out, in the patterns of .gitignore, such as ["tmp-*", "*.lock"].
    exclude: []
    targets: {{disk: working}}
"""


def render_template(
    *, model_name: str, model: Path, target: Path, key_file: Path, state_dir: Path
) -> str:
    """The text of a configuration that watches `model` and stores into `target`.

    All paths are absolute. Raises `ConfigError` for a path that no YAML can hold (one whose
    bytes are not UTF-8).
    """
    return _TEMPLATE.format(
        model_name=model_name,
        model_key=quote(model_name),
        model=_quote_path(model),
        target=_quote_path(target),
        key_file=_quote_path(key_file),
        state_dir=_quote_path(state_dir),
    )


def quote(text: str) -> str:
    """`text` as a YAML scalar that reads back as itself wherever a value or key may stand."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return '"' + "".join(_escape(character) for character in text) + '"'


def name_for(folder: Path) -> str:
    """A model's name after its folder: what a name cannot hold becomes `-`."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name).strip("-._")
    return name[:64].rstrip("-._") or "model"


def _quote_path(path: Path) -> str:
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{text!r} is not UTF-8, and a configuration can hold nothing else",
            hint="rename the folder, or name it through a symbolic link",
        ) from None
    return quote(text)


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    number = ord(character)
    # YAML 1.1 section 5.1 allows more raw; what is not printable is better seen than guessed.
    if character == " " or (character.isprintable() and number != 0xFEFF):
        return character
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
