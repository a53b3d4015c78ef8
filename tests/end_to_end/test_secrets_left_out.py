"""Secrets in a model's folder and in its code reach no repository unless that is wished for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backupd.operations.reports import SnapshotReport
from tests.support.coded import Coded, make_coded
from tests.support.repositories import git, start

MARK = "S3cretS3cretS3cret"
LONG = MARK + "Q" * 40


def seed(coded: Coded) -> list[str]:
    """Put a secret in 24 places, 14 of the model and 10 of its code; the model's paths."""
    model = coded.world.model_path
    aws = "A" + "KIA" + "S3CRETS3CRETS3CR"
    places: dict[str, str] = {
        ".env": f"PASSWORD={LONG}",
        "deploy/.env.production": f"PASSWORD={LONG}",
        "server.pem": LONG,
        "keys/host.key": LONG,
        ".ssh/id_ed25519": LONG,
        ".ssh/config": LONG,
        ".aws/credentials": LONG,
        ".netrc": f"machine x password {LONG}",
        "kaggle.json": f'{{"key": "{LONG}"}}',
        "service-account-prod.json": LONG,
        "config.yaml": f"token: hf_{LONG}",
        "notes/run.md": f"clone with ghp_{LONG}",
        "settings.json": f'{{"aws": "{aws}"}}',
        "large.cfg": "# padding\n" * 9000 + f"-----BEGIN RSA PRIVATE KEY-----\n{LONG}\n",
    }
    for name, text in places.items():
        path = model / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    code = start(coded.code)
    (code / "clean.py").write_text("a = 1\n")
    (code / "was.py").write_text(f"t = 'ghp_{LONG}'\n")
    (code / "tracked.yaml").write_text(f"token: hf_{LONG}\n")
    (code / "id_rsa").write_text(LONG)
    git(code, "add", "-A")
    git(code, "commit", "-qm", "Oops")
    (code / "was.py").write_text("t = None\n")  # the change shows what was there
    (code / "train.py").write_text(f"key = '{aws}'\n")
    (code / ".env").write_text(LONG)
    (code / "lib" / "new.toml").write_text(f"pypi = 'pypi-AgE{LONG}{LONG}'\n")
    (code / "staged.json").write_text(f'{{"slack": "xoxb-{LONG}"}}\n')
    git(code, "add", "staged.json")
    (code / "gone.pem").write_text(LONG)
    (code / "notes.md").write_text(f"glpat-{LONG}\n")
    return list(places)


def names_of(report: SnapshotReport) -> str:
    assert report.snapshot is not None
    return "\n".join(report.snapshot.skipped)


@pytest.mark.parametrize("scheme", ["params", "everything"])
@pytest.mark.parametrize("mode", ["record", "commit"])
def test_secrets_in_two_dozen_places_are_in_no_blob(mode: str, scheme: str, tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    paths = seed(coded)
    report = coded.snapshot(mode, scheme=scheme)
    assert report.snapshot is not None and not report.partial
    blobs = list(coded.blobs())
    assert any(b"print('loss'" in blob or b"a = 1" in blob for blob in blobs) == (
        scheme == "everything"
    )
    for blob in blobs:
        assert MARK.encode() not in blob and b"S3CRET" not in blob
    if scheme == "everything":
        told = names_of(report)
        for path in paths:
            assert f"{path}: holds" in told
        assert "a Hugging Face token" in told and "include_secrets keeps it" in told
    if mode == "commit":
        # The commits of the user hold what they held; ours adds nothing to it.
        new = git(coded.code, "diff", "HEAD", "backupd/m").decode()
        added = [line for line in new.splitlines() if line.startswith("+")]
        assert not [line for line in added if MARK in line or "S3CRET" in line]


def test_a_secret_that_was_kept_is_left_out_by_the_next_snapshot_and_back_again(
    tmp_path: Path,
) -> None:
    coded = make_coded(tmp_path)
    (coded.world.model_path / "config.yaml").write_text(f"token: hf_{LONG}\n")
    (coded.world.model_path / ".env").write_text("A=1\n")
    coded.code.mkdir()
    first = coded.snapshot(include_secrets=True)
    assert first.snapshot is not None and not first.snapshot.skipped
    count = first.snapshot.file_count
    second = coded.snapshot()
    assert second.snapshot is not None and second.snapshot.file_count == count - 2
    third = coded.snapshot()
    assert third.unchanged and not third.notes
    fourth = coded.snapshot(include_secrets=True)
    assert fourth.snapshot is not None and fourth.snapshot.file_count == count


NO_SECRETS: dict[str, Callable[[Path], object]] = {
    ".env.example": lambda path: path.write_text("TOKEN=\n"),
    "tokenizer.json": lambda path: path.write_text('{"hf_": 1, "sk-": 2, "ghp_": 3}'),
    "config.json": lambda path: path.write_text('{"model_type": "llama", "key": "AKIA"}'),
    "page.html": lambda path: path.write_text("sk-toggleable__label-arrow sk-container-id-1 " * 99),
    "weights.bin": lambda path: path.write_bytes(bytes(10) + b"hf_" + b"a" * 40),
    "public.txt": lambda path: path.write_text("-----BEGIN PUBLIC KEY-----\n"),
    "sha.txt": lambda path: path.write_text("AKIA" + "0" * 60),
}


def test_what_is_no_secret_is_kept(tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    for name, make in NO_SECRETS.items():
        make(coded.world.model_path / name)
    coded.code.mkdir()
    report = coded.snapshot()
    assert report.snapshot is not None and report.snapshot.skipped == ()


def test_secrets_that_are_wished_for_are_found_where_the_test_looks(tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    seed(coded)
    coded.snapshot(scheme="everything", include_secrets=True)
    holding = [blob for blob in coded.blobs() if MARK.encode() in blob]
    assert len(holding) >= 12
