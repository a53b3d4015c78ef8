"""The code of a model is recorded and committed, and its repository is as it was."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.capture.provenance.code import CodeWish, capture_code, repository_of
from backupd.config.settings import CodeSettings
from backupd.errors import BackupdError
from backupd.operations.side_branch import follow, with_commit
from backupd.repository.snapshots import SnapshotRecord
from tests.support.repositories import (
    CASES,
    OTHER_USER,
    Case,
    expected_tree,
    fingerprint,
    git,
    marks,
)

ENVIRONMENT = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": "/nonexistent"}


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that other users can reach: pytest closes its own whenever a run of it begins."""
    folder = Path(tempfile.mkdtemp(prefix="backupd-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def wish(case: Case, mode: str, scheme: str = "params") -> CodeWish:
    settings = CodeSettings(case.code, mode)
    return CodeWish(settings, scheme, (Path("/nowhere/model"),), False, ENVIRONMENT)


def record(version: int, code: dict[str, object]) -> SnapshotRecord:
    return SnapshotRecord("box", "m", version, 1.7e9 + version, b"/m", (), code=code)


@pytest.mark.parametrize("name", CASES)
def test_a_repository_in_any_state_is_recorded_and_left_as_it_was(
    name: str, open_path: Path
) -> None:
    case = CASES[name](open_path / "code")
    before = fingerprint(case.code, objects=True) if case.readable else {}
    told: list[str] = []
    for scheme in ("params", "everything"):
        with capture_code(wish(case, "record", scheme)) as capture:
            kept = (
                {file.path: file.content for file in capture.files()} if "lost" not in name else {}
            )
        told += capture.facts.get("notes", [])
        assert all(b"hf_aaaa" not in text and b"AKIAQQ" not in text for text in kept.values())
        if case.readable:
            assert capture.facts["system"] == "git"
            assert fingerprint(case.code, objects=True) == before
    if case.readable and not case.notes:
        assert not [note for note in told if "left out" not in note], told
    wanted = ""
    if case.readable and case.whole:
        wanted = expected_tree(case.code, open_path / "copy")
    made = commit_once(case, 1, None, told)
    assert bool(made) == case.commits, told
    for words in case.notes:
        assert any(words in note for note in told), told
    if case.readable:
        now = fingerprint(case.code, objects=False)
        was = {key: value for key, value in before.items() if key in now}
        assert now == was
    assert marks(case.code) == marks(case.code.parent) == []
    if made:
        assert_commit_is_right(case, made, wanted)
        again = commit_once(case, 2, made, told)
        assert again, told
        assert (
            git(case.code, "-c", "safe.directory=*", "rev-parse", "backupd/m~1").decode().strip()
            == (made.code["side_commit"])
        )
        assert fingerprint(case.code, objects=False) == now


def commit_once(
    case: Case, version: int, before: SnapshotRecord | None, told: list[str]
) -> SnapshotRecord | None:
    """What a snapshot does with `git: commit`; None where no commit was made."""
    with capture_code(wish(case, "commit")) as capture:
        told += capture.facts.get("notes", [])
        if capture.repository is None:
            return None
        try:
            made = with_commit(capture.repository, record(version, capture.facts), before)
            follow(repository_of(case.code, ENVIRONMENT), made)
        except BackupdError as error:
            told.append(error.message)
            return None
    return made


def assert_commit_is_right(case: Case, made: SnapshotRecord, wanted: str) -> None:
    commit = str(made.code["side_commit"])
    trust = ("-c", "safe.directory=*")
    assert git(case.code, *trust, "rev-parse", "backupd/m").decode().strip() == commit
    if wanted:
        assert git(case.code, *trust, "rev-parse", f"{commit}^{{tree}}").decode().strip() == wanted
    head = git(case.code, *trust, "rev-parse", "--verify", "-q", "HEAD", ok=False).decode().strip()
    parents = git(case.code, *trust, "log", "-1", "--format=%P", commit).decode().split()
    assert parents == ([head] if head else [])
    message = git(case.code, *trust, "log", "-1", "--format=%B", commit).decode()
    assert message.startswith("Update m to version 1\n\nBackupd-Snapshot: m@v1\n")
    listed = git(case.code, *trust, "ls-tree", "-r", "--name-only", commit).decode()
    assert ".env" not in listed and "weights.bin" not in listed


def test_what_is_written_for_another_user_belongs_to_that_user(open_path: Path) -> None:
    case = CASES["of another user"](open_path / "code")
    assert commit_once(case, 1, None, [])
    owners = {
        os.lstat(os.path.join(base, name)).st_uid
        for base, folders, names in os.walk(case.code / ".git")
        for name in (*folders, *names)
    }
    assert owners == {OTHER_USER}


def test_a_plain_user_records_a_repository_of_another_and_reads_no_more_than_it_may(
    open_path: Path,
) -> None:
    case = CASES["dirty in every way"](open_path / "code")
    (case.code / "secret.txt").write_text("of root alone\n")
    (case.code / "secret.txt").chmod(0o600)
    with capture_code(wish(case, "record")) as capture:
        list(capture.files())  # and all modules are there, whatever that user may read
    before = fingerprint(case.code, objects=True)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(OTHER_USER)
            os.setuid(OTHER_USER)
            with capture_code(wish(case, "record", "everything")) as capture:
                kept = sorted(os.fsdecode(file.path) for file in capture.files())
                os.write(writer, json.dumps([capture.facts, kept]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        facts, kept = json.loads(answer.read())
    os.waitpid(child, 0)
    assert facts["system"] == "git" and facts["dirty"]
    assert "source/notes.md" in kept and "source/secret.txt" not in kept
    assert any("secret.txt" in note for note in facts["notes"])
    assert fingerprint(case.code, objects=True) == before


def test_a_repository_cannot_name_what_root_alone_may_read_as_its_work_tree(
    open_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES["of another user"](open_path / "code")
    git(case.code, "-c", "safe.directory=*", "config", "core.worktree", "/")
    # As in systemd's sandbox, where root can become nobody else.
    monkeypatch.setattr("backupd.capture.provenance.code.may_become", lambda account: False)
    with capture_code(wish(case, "record", "everything")) as capture:
        kept = [file.path for file in capture.files()]
    assert capture.facts["system"] == "none"
    assert any("belongs to another user" in note for note in capture.facts["notes"])
    assert not any(b"etc/" in path for path in kept)
