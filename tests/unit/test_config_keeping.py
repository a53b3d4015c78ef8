"""A configuration is kept as it was written, and without a single secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from backupd.config.keeping import keepable, left_out_lines, rebuilt
from backupd.config.load import check_text

PLAIN = """\
# Größe: the disk of the lab
state_dir: /var/lib/backupd    # where it lies
host: box1
key: {file: /etc/backupd/key}
targets:
  disk: {type: local, path: /srv/modèles}
  s3: {type: s3, bucket: team, credentials_file: /etc/backupd/s3}
policies:
  few: {keep_last: 3, keep_labels: ["a#b", 'token']}
models:
  llama: {path: /srv/llama, exclude: ["# no", "*.lock"], targets: {disk: few, s3: [few]}}
"""


def valid(text: str) -> None:
    settings, problems = check_text(text.encode(), Path("/x.yaml"), {"HOME": "/root"})
    assert settings is not None, problems


def test_what_holds_no_secret_is_kept_as_it_was_written() -> None:
    assert keepable(PLAIN.encode()) == PLAIN
    assert left_out_lines(PLAIN) == []


SECRETS = """\
# 日本 old: https://me:hunter2@store/ and the password hunter2
host: box1
key:
  passphrase_command: echo hunter2   # says hunter2? a secret
targets:
  s3:
    type: s3
    bucket: team
    endpoint_url: "https://me:hunter2@s3.example.org:8443"
    proxy: 'http://hunter2@proxy:3128'
policies: {few: {keep_last: 3}}
models: {llama: {path: /srv/llama, targets: {s3: few}}}
notify:
  urls:
    - mailto://me:hunter2@example.org
    - "slack://hunter2/hunter2/hunter2"
    - >-
      json://example.org/hunter2?token=hunter2
  healthcheck: https://hc.example.org/hunter2
"""


def test_no_secret_is_kept() -> None:
    kept = keepable(SECRETS.encode())
    assert "hunter2" not in kept
    assert "example.org:8443" in kept
    assert "https://hc.example.org/***" in kept
    assert len(left_out_lines(kept)) >= 6


def test_a_new_box_is_set_up_from_what_was_kept() -> None:
    kept = keepable(SECRETS.replace("hunter2@s3", "x@s3").encode())
    text = rebuilt(kept, host="other", key_file="/etc/backupd/key")
    assert "file: /etc/backupd/key" in text
    assert "passphrase_command" not in text
    assert "host: box1" in text
    assert "host: other" not in text


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace("host: box1\n", ""),
        "---\n" + PLAIN.replace("host: box1\n", ""),
        "{key: {encryption: none}, targets: {d: {type: local, path: /a}}, "
        "policies: {few: {keep_last: 1}}, models: {m: {path: /b, targets: {d: few}}}}\n",
    ],
    ids=["block", "marked", "flow"],
)
def test_the_host_is_named_where_the_lost_box_had_it_from_its_name(text: str) -> None:
    made = rebuilt(keepable(text.encode()), host="box9", key_file="/k")
    settings, problems = check_text(made.encode(), Path("/x.yaml"), {"HOME": "/root"})
    assert settings is not None, problems
    assert settings.host == "box9"


def test_a_command_for_the_passphrase_becomes_a_key_file() -> None:
    for written in (
        "key: {passphrase_command: pass show backupd}",
        "key:\n  passphrase_command: |\n    pass show backupd\n",
        "key:\n  \"passphrase_command\": 'pass show backupd'  # of the team",
    ):
        text = PLAIN.replace("key: {file: /etc/backupd/key}", written)
        valid(text)
        made = rebuilt(keepable(text.encode()), host="box1", key_file="/etc/backupd/key")
        settings, problems = check_text(made.encode(), Path("/x.yaml"), {"HOME": "/root"})
        assert settings is not None, (made, problems)
        assert settings.key.file == Path("/etc/backupd/key")
