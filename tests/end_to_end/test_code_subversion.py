"""A Subversion working copy is recorded, left as it was, and given back."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.test_code_snapshots import give_back, manifest
from tests.support.coded import Coded, make_coded

KEY = "AKIA" + "Q" * 16


def svn(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["svn", "--non-interactive", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def digest(folder: Path) -> dict[str, str]:
    return {
        os.path.join(base, name): hashlib.sha256(Path(base, name).read_bytes()).hexdigest()
        for base, _, names in os.walk(folder)
        for name in names
    }


@pytest.fixture
def coded(tmp_path: Path) -> Coded:
    """Two revisions; then changes, what is not versioned, and what is ignored."""
    coded = make_coded(tmp_path)
    code = coded.code
    subprocess.run(["svnadmin", "create", tmp_path / "svn"], check=True)
    svn(tmp_path, "checkout", "-q", f"file://{tmp_path}/svn", str(code))
    (code / "train.py").write_text("print('loss')\n")
    (code / "lib").mkdir()
    (code / "lib" / "net.py").write_text("class Net: ...\n")
    svn(code, "add", "-q", "train.py", "lib")
    svn(code, "propset", "-q", "svn:ignore", "*.log\nbig", ".")
    svn(code, "commit", "-q", "-m", "Begin")
    (code / "train.py").write_text("print('loss', 1)\n")
    svn(code, "commit", "-q", "-m", "Learn faster")
    svn(code, "update", "-q")
    (code / "train.py").write_text("print('loss', 2)\n")
    (code / "added.py").write_text("a = 1\n")
    svn(code, "add", "-q", "added.py")
    svn(code, "delete", "-q", "lib/net.py")
    (code / "notes").mkdir()
    (code / "notes" / "new.md").write_text("new\n")
    (code / "token.py").write_text(f"key = '{KEY}'\n")
    (code / ".env").write_text("A=1\n")
    (code / "run.log").write_text("ignored\n")
    return coded


@pytest.mark.parametrize("scheme", ["params", "everything"])
def test_a_working_copy_is_recorded_and_given_back(
    coded: Coded, scheme: str, tmp_path: Path
) -> None:
    before = digest(coded.code)
    report = coded.snapshot(scheme=scheme)
    assert report.snapshot and not report.partial
    assert digest(coded.code) == before
    code = report.snapshot.code
    assert (code["system"], code["revision"], code["dirty"]) == ("subversion", 2, True)
    assert code["url"] == f"file://{tmp_path}/svn"
    assert any(".env" in note for note in code["notes"])
    back = give_back(coded, tmp_path / "back")
    assert not back.failed, back
    wanted = manifest(coded.code)
    for name in ("run.log", "token.py", ".env"):
        del wanted[name]
    assert manifest(tmp_path / "back" / "source") == wanted
    assert all(KEY.encode() not in blob for blob in coded.blobs())
    patch = (tmp_path / "back" / "changes.patch").read_text()
    assert "+print('loss', 2)" in patch and "-print('loss', 1)" in patch


def test_a_folder_below_the_top_of_a_working_copy_is_one(coded: Coded) -> None:
    coded.code = coded.code / "notes"
    svn(coded.code.parent, "add", "-q", "--depth=empty", "notes")
    report = coded.snapshot(scheme="params")
    assert report.snapshot and report.snapshot.code["system"] == "subversion"


def test_a_repository_whose_server_is_gone_is_recorded_all_the_same(
    coded: Coded, tmp_path: Path
) -> None:
    (tmp_path / "svn").rename(tmp_path / "gone")
    report = coded.snapshot(scheme="params")
    assert report.snapshot and report.snapshot.code["revision"] == 2
    back = give_back(coded, tmp_path / "back")
    assert "source" in back.failed and (tmp_path / "back" / "changes.patch").exists()
