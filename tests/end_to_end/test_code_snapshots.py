"""The code beside whole snapshots: kept, compared, given back, committed, pushed, never lost."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.cli import documents
from backupd.errors import BackupdError
from backupd.operations.check import check
from backupd.operations.diff import diff
from backupd.operations.prune import prune
from backupd.operations.restore import RestoreRequest, restore
from backupd.operations.restore_code import CodeReport, restore_code
from tests.support.coded import Coded, make_coded
from tests.support.repositories import dirty, fingerprint, git, start


def manifest(folder: Path) -> dict[str, object]:
    """What a user sees of a source tree: files, links and whether they can be run."""
    found: dict[str, object] = {}
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in (".git", ".svn")]
        for name in (*names, *(f for f in folders if (Path(base) / f).is_symlink())):
            path = Path(base) / name
            content: object = os.readlink(path) if path.is_symlink() else path.read_bytes()
            place = str(path.relative_to(folder))
            found[place] = (content, bool(path.lstat().st_mode & stat.S_IXUSR))
    return found


def give_back(coded: Coded, to: Path, name: str = "m@latest") -> CodeReport:
    with coded.open() as installation:
        return restore_code(installation, coded.resolved(name), to)


def notable(folder: Path) -> Path:
    """Source with all that git keeps of files."""
    start(folder)
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("lib/model.py")
    (folder / "data.bin").write_bytes(bytes(range(256)))
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "More")
    dirty(folder)
    (folder / "data.bin").write_bytes(bytes(range(255, -1, -1)))
    (folder / "lib" / "new").mkdir(parents=True)
    (folder / "lib" / "new" / "tool.sh").write_text("echo\n")
    (folder / "lib" / "new" / "tool.sh").chmod(0o755)
    (folder / "lib" / "new" / "there").symlink_to("tool.sh")
    return folder


def expected(folder: Path) -> dict[str, object]:
    found = manifest(folder)
    del found["run.log"]  # it is ignored
    return found


@pytest.mark.parametrize("mode", ["record", "commit"])
@pytest.mark.parametrize("scheme", ["params", "everything"])
def test_the_source_comes_back_as_it_was(mode: str, scheme: str, tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    notable(coded.code)
    wanted = expected(coded.code)
    assert coded.snapshot(mode, scheme=scheme).snapshot
    git(coded.code, "add", "-A")
    git(coded.code, "commit", "-qm", "Another time")
    report = give_back(coded, tmp_path / "back")
    assert not report.failed, report
    assert manifest(tmp_path / "back" / "source") == wanted
    if scheme == "everything":
        subprocess.run(["rm", "-rf", coded.code], check=True)
        give_back(coded, tmp_path / "again")
        assert manifest(tmp_path / "again" / "source") == wanted


def test_the_source_comes_from_the_remote_when_the_box_is_gone(tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    remote = tmp_path / "remote.git"
    git(tmp_path, "init", "-q", "--bare", "remote.git")
    notable(coded.code)
    git(coded.code, "remote", "add", "origin", f"file://{remote}")
    git(coded.code, "push", "-q", "origin", "main")
    wanted = expected(coded.code)
    coded.snapshot("record", scheme="params")
    coded.code.rename(tmp_path / "lost")
    report = give_back(coded, tmp_path / "back")
    assert not report.failed and "remote.git" in report.source
    assert manifest(tmp_path / "back" / "source") == wanted


def test_source_that_cannot_be_had_is_named_and_the_rest_given(tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    notable(coded.code)
    coded.snapshot("record", scheme="params")
    coded.code.rename(tmp_path / "lost")
    report = give_back(coded, tmp_path / "back")
    assert "source" in report.failed and "no remote" in report.failed["source"]
    assert (tmp_path / "back" / "changes.patch").exists()
    assert (tmp_path / "back" / "untracked" / "notes.md").read_text() == "new\n"


def test_code_without_any_version_control_is_kept_by_the_schemes_that_keep_code(
    tmp_path: Path,
) -> None:
    coded = make_coded(tmp_path)
    (coded.code / "pkg").mkdir(parents=True)
    (coded.code / "pkg" / "a.py").write_text("a = 1\n")
    (coded.code / "pkg" / "__pycache__").mkdir()
    (coded.code / "pkg" / "__pycache__" / "a.pyc").write_bytes(b"x")
    coded.snapshot(scheme="code+params")
    assert not give_back(coded, tmp_path / "back").failed
    assert list(manifest(tmp_path / "back" / "source")) == ["pkg/a.py"]


def test_a_snapshot_needs_its_code_as_all_that_asks_sees(tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    notable(coded.code)
    coded.snapshot(scheme="everything")
    with coded.open() as installation:
        assert check(installation, "disk", read_data_percent=100).clean
        prune(installation, "disk", dry_run=False)
        coded.world.ahead += 3 * 86400
        prune(installation, "disk", dry_run=False)
        assert check(installation, "disk", read_data_percent=100).clean
    assert not give_back(coded, tmp_path / "back").failed
    wanted = b"print('changed')\n"
    packs = [path for path in (tmp_path / "world" / "repo" / "packs").rglob("*") if path.is_file()]
    assert any(wanted in blob for blob in coded.blobs())
    for pack in packs:
        pack.unlink()
    with coded.open() as installation:
        report = check(installation, "disk")
    hurt = {path for finding in report.findings for path in finding.files}
    assert any("list of files" in path or "of the code" in path for path in hurt)


def test_packages_and_source_are_compared(tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    start(coded.code)
    site = coded.code / ".venv" / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    (coded.code / ".gitignore").write_text(".venv/\n")
    (coded.code / ".venv" / "pyvenv.cfg").write_text("version = 3.11.9\n")

    def install(name: str, version: str) -> None:
        for old in site.glob(f"{name}-*"):
            (old / "METADATA").unlink()
            old.rmdir()
        folder = site / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )

    install("torch", "2.4.0+cu121")
    install("numpy", "1.26.4")
    coded.snapshot(scheme="everything")
    install("torch", "2.5.0+cu124")
    (coded.code / "train.py").write_text("print('loss', 2)\n" * 20)
    (coded.code / "new.py").write_text("x = 1\n")
    coded.change()
    coded.snapshot(scheme="everything")
    report = diff(coded.resolved("m@v1"), coded.resolved("m@v2"))
    assert [(p.name, p.old, p.new) for p in report.source.packages] == [
        ("torch", "2.4.0+cu121", "2.5.0+cu124")
    ]
    patches = {change.path: change for change in report.source.files}
    assert patches["new.py"].change == "added"
    assert "-print('loss', 1)\n+print('loss', 2)\n" in patches["train.py"].patch.replace(
        "-print('loss', 1)\n" * 19, ""
    ).replace("+print('loss', 2)\n" * 19, "")
    back = give_back(coded, tmp_path / "back")
    assert not back.failed
    lines = (tmp_path / "back" / "requirements.txt").read_text().splitlines()
    assert lines[0].startswith("# Python 3.11.9") and lines[1:] == [
        "numpy==1.26.4",
        "torch==2.5.0+cu124",
    ]


def test_the_interpreter_that_is_named_is_asked_and_a_card_is_told(tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    start(coded.code)
    tools = tmp_path / "tools"
    tools.mkdir()
    smi = tools / "nvidia-smi"
    smi.write_text(
        '#!/bin/sh\n[ "$1" ] && printf "NVIDIA A100, 550.1\\nNVIDIA A100, 550.1\\n"'
        ' || echo "| CUDA Version: 12.4 |"\n'
    )
    smi.chmod(0o755)
    coded.snapshot(python=Path(sys.executable), path=f"{tools}:/usr/bin:/bin")
    environment = coded.resolved().info.code["environment"]
    assert environment["gpus"] == ["NVIDIA A100", "NVIDIA A100"]
    assert (environment["driver"], environment["cuda"]) == ("550.1", "12.4")
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["packages"] > 10


def test_models_targets_and_keys_among_the_code_are_none_of_it(tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    coded.code = coded.world.root  # which holds the model, the repository, the key and the state
    git(coded.code, "init", "-q", "-b", "main")
    (coded.code / "train.py").write_text("a = 1\n")
    git(coded.code, "add", "train.py")
    git(coded.code, "commit", "-qm", "Begin")
    (coded.code / "notes.md").write_text("new\n")
    assert coded.snapshot("commit", scheme="everything").snapshot
    coded.change()
    assert coded.snapshot("commit", scheme="everything").snapshot
    listed = git(coded.code, "ls-tree", "-r", "--name-only", "backupd/m").decode().split()
    assert listed == ["notes.md", "train.py"]
    assert not give_back(coded, tmp_path / "back").failed
    assert sorted(manifest(tmp_path / "back" / "source")) == listed


@pytest.mark.parametrize(
    "answer", ["", "{}", "[]", '{"version": 3, "path": 4}', "nonsense", "exit"], ids=repr
)
def test_an_interpreter_that_answers_nonsense_is_told_and_costs_nothing(
    answer: str, tmp_path: Path
) -> None:
    coded = make_coded(tmp_path)
    start(coded.code)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\necho '{answer}'\n{answer if answer == 'exit' else ''} 3\n")
    python.chmod(0o755)
    report = coded.snapshot(python=python)
    assert report.snapshot and not report.partial
    assert any("packages" in note for note in report.notes)
    assert report.snapshot.code["system"] == "git"


@pytest.mark.parametrize(
    ("script", "told"),
    [("echo git version 2.30.2", "too old"), ("exit 1", "git"), ("sleep 1; echo", "too old")],
)
def test_a_git_that_cannot_be_told_to_run_nothing_is_not_used(
    script: str, told: str, tmp_path: Path
) -> None:
    coded = make_coded(tmp_path)
    start(coded.code)
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n[ $1 = --no-pager ] && shift\n{script}\n")
    program.chmod(0o755)
    report = coded.snapshot("commit", path=f"{program.parent}:/usr/bin:/bin")
    assert report.snapshot and not report.partial
    assert any(told in note for note in report.notes), report.notes
    assert "commit" not in report.snapshot.code


def test_a_folder_whose_name_is_no_text_is_told_in_json(tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    coded.code = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    start(coded.code)
    report = coded.snapshot("commit")
    assert report.snapshot
    json.dumps(documents.snapshot(report.snapshot), ensure_ascii=False).encode()
    assert not give_back(coded, tmp_path / "back").failed


# -- commits and pushes ----------------------------------------------------------------------------


def test_the_branch_reads_as_the_history_of_the_model(tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    start(coded.code)
    for step in range(4):
        if step == 2:
            (coded.code / "train.py").write_text("print('better')\n")
            git(coded.code, "commit", "-qam", "Better")
        coded.change()
        assert coded.snapshot("commit").snapshot
    graph = git(coded.code, "log", "--graph", "--format=%s", "backupd/m").decode()
    subjects = [line.strip("|*\\/ ") for line in graph.splitlines() if "*" in line]
    assert subjects == [
        "Update m to version 4", "Update m to version 3", "Better", "Update m to version 2",
        "Update m to version 1", "Learn faster", "Begin",
    ]  # fmt: skip
    straight = git(coded.code, "log", "--first-parent", "--format=%s", "backupd/m").decode()
    assert straight.split("\n")[:4] == [f"Update m to version {n}" for n in (4, 3, 2, 1)]
    for number in range(1, 5):
        commit = coded.resolved(f"m@v{number}").info.code["side_commit"]
        trailers = git(coded.code, "log", "-1", "--format=%(trailers)", commit).decode()
        assert f"Backupd-Snapshot: m@v{number}\n" in trailers


@pytest.mark.parametrize("moment", ["before the snapshot is listed", "before the branch moves"])
def test_a_commit_is_not_lost_when_it_is_killed(moment: str, tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    start(coded.code)
    assert coded.snapshot("commit").snapshot
    coded.change()
    child = os.fork()
    if not child:
        try:
            import backupd.operations.snapshot as verbs
            from backupd.repository.writer import Writer

            def die(*arguments: object) -> None:
                os.kill(os.getpid(), signal.SIGKILL)

            if moment.endswith("moves"):
                verbs.settle_code = die  # type: ignore[assignment]
            else:
                Writer._list_as = die  # type: ignore[assignment,method-assign]
            coded.snapshot("commit")
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    tip = git(coded.code, "log", "-1", "--format=%s", "backupd/m").decode().strip()
    assert tip == "Update m to version 1"
    report = coded.snapshot("commit")
    assert report.unchanged == moment.endswith("moves") and not report.retry
    log = git(coded.code, "log", "--first-parent", "-2", "--format=%s", "backupd/m").decode()
    assert log.split("\n")[:2] == ["Update m to version 2", "Update m to version 1"]
    assert coded.resolved("m@v2").info.code["side_commit"] == (
        git(coded.code, "rev-parse", "backupd/m").decode().strip()
    )


def test_a_branch_that_cannot_move_is_told_and_made_good_later(tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    start(coded.code)
    coded.snapshot("commit")
    lock = coded.code / ".git" / "refs" / "heads" / "backupd" / "m.lock"
    lock.write_bytes(b"")
    for _ in range(2):
        coded.change()
        report = coded.snapshot("commit")
        assert report.snapshot and report.retry and not report.partial
        assert any("m.lock" in note for note in report.notes)
    lock.unlink()
    assert coded.snapshot("commit").unchanged
    log = git(coded.code, "log", "--first-parent", "-3", "--format=%s", "backupd/m").decode()
    assert log.split("\n")[:3] == [f"Update m to version {n}" for n in (3, 2, 1)]


def test_a_full_disk_under_the_code_costs_the_commit_and_nothing_else(tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    coded.code.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs")
    subprocess.run([*mount, str(coded.code)], check=True)
    try:
        start(coded.code)
        assert coded.snapshot("commit").snapshot
        (coded.code / "train.py").write_bytes(os.urandom(300_000))
        with pytest.raises(OSError, match="No space"):
            (coded.code / "data.log").write_bytes(bytes(4 << 20))
        before = fingerprint(coded.code, objects=False)
        coded.change()
        report = coded.snapshot("commit")
        assert report.snapshot and not report.partial
        assert any("no commit is made" in note for note in report.notes)
        assert fingerprint(coded.code, objects=False) == before
        assert b"".join(coded.blobs()).find((coded.code / "train.py").read_bytes()) >= 0
        (coded.code / "data.log").unlink()
        coded.change()
        coded.snapshot("commit")
        log = git(coded.code, "log", "--first-parent", "-2", "--format=%s", "backupd/m").decode()
        assert log.split("\n")[:2] == ["Update m to version 3", "Update m to version 1"]
    finally:
        subprocess.run(["umount", str(coded.code)], check=True)


def test_a_hostile_snapshot_makes_git_do_nothing_but_look(tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    start(coded.code)
    coded.snapshot(scheme="params")
    resolved = coded.resolved()
    mark = tmp_path / "RAN"
    for facts in (
        {"commit": f"--upload-pack=touch {mark}", "remote": str(coded.code)},
        {"commit": "a" * 40, "remote": f"ext::sh -c touch% {mark}"},
        {"commit": "a" * 40, "remote": f"--upload-pack=touch {mark}"},
        {"commit": "a" * 40, "remote": f"ssh://-oProxyCommand=touch {mark}/x"},
        {"side_commit": "b" * 40, "side_branch": f"--output={mark}", "remote": str(coded.code)},
    ):
        code = {"system": "git", "path": str(tmp_path / "none"), **facts}
        record = replace(resolved.stored.record, code=code)
        hostile = replace(resolved, stored=replace(resolved.stored, record=record))
        with coded.open() as installation:
            report = restore_code(installation, hostile, tmp_path / "out", overwrite=True)
        assert "source" in report.failed
        assert not mark.exists()


def test_commits_of_others_on_the_branch_are_kept(tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    start(coded.code)
    coded.snapshot("commit")
    other = (
        git(coded.code, "commit-tree", "-p", "backupd/m", "-m", "By hand", "backupd/m^{tree}")
        .decode()
        .strip()
    )
    git(coded.code, "update-ref", "refs/heads/backupd/m", other)
    coded.change()
    coded.snapshot("commit")
    log = git(coded.code, "log", "--first-parent", "-3", "--format=%s", "backupd/m").decode()
    assert log.split("\n")[:3] == ["Update m to version 2", "By hand", "Update m to version 1"]


def test_a_remote_that_rejects_is_told_and_pushed_to_later_and_never_forced(tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    remote = tmp_path / "remote.git"
    git(tmp_path, "init", "-q", "--bare", "remote.git")
    hook = remote / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho we are closed >&2\nexit 1\n")
    hook.chmod(0o755)
    start(coded.code)
    git(coded.code, "remote", "add", "origin", f"file://{remote}")
    before = fingerprint(coded.code, objects=False)
    first = coded.snapshot("push")
    assert first.snapshot and first.retry and not first.partial
    assert any("could not be pushed" in note and "closed" in note for note in first.notes)
    assert coded.snapshot("push").retry
    hook.unlink()
    again = coded.snapshot("push")
    assert again.unchanged and not again.retry and any("is pushed" in note for note in again.notes)
    assert not coded.snapshot("push").notes
    here, there = (git(place, "rev-parse", "backupd/m") for place in (coded.code, remote))
    assert here == there
    assert fingerprint(coded.code, objects=False) == before
    # Another box was quicker: its commit stays.
    other = (
        git(remote, "commit-tree", "-p", "backupd/m", "-m", "Of another box", "backupd/m^{tree}")
        .decode()
        .strip()
    )
    git(remote, "update-ref", "refs/heads/backupd/m", other)
    coded.change()
    late = coded.snapshot("push")
    assert late.snapshot and late.retry
    assert git(remote, "rev-parse", "backupd/m").decode().strip() == other


def test_a_safe_restore_leaves_out_what_may_run_code(tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    start(coded.code)
    model = coded.world.model_path
    (model / "evil.pkl").write_bytes(b"cposix\nsystem\n(S'touch /tmp/x'\ntR.")
    (model / "good.pkl").write_bytes(b"\x80\x04N.")
    (model / "evil.link").hardlink_to(model / "evil.pkl")
    first = coded.snapshot()
    coded.change()
    second = coded.snapshot()
    for report in (first, second):
        assert report.snapshot
        assert [d.path for d in report.snapshot.findings] == ["evil.link"]  # its first name
    for safe in (False, True):
        with coded.open() as installation:
            request = RestoreRequest(to=tmp_path / f"out-{safe}", safe=safe)
            back = restore(installation, coded.resolved(), request)
        assert (tmp_path / f"out-{safe}" / "good.pkl").exists()
        assert (tmp_path / f"out-{safe}" / "evil.pkl").exists() != safe
        assert (tmp_path / f"out-{safe}" / "evil.link").exists() != safe
        assert set(back.failed) == ({"evil.link", "evil.pkl"} if safe else set())
        assert bool(back.findings) != safe


def test_a_safe_restore_of_what_nobody_looked_through_is_refused(tmp_path: Path) -> None:
    coded = make_coded(tmp_path)
    start(coded.code)
    coded.snapshot()
    resolved = coded.resolved()
    old = replace(resolved.stored.record, secrets="", findings=())
    resolved = replace(resolved, stored=replace(resolved.stored, record=old))
    with coded.open() as installation, pytest.raises(BackupdError, match="not looked through"):
        restore(installation, resolved, RestoreRequest(to=tmp_path / "out", safe=True))
