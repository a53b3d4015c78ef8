"""Git repositories in every awkward state, and what of one must not change when it is looked at.

A builder gets an empty folder and makes a repository in it; its answer is what a test must know.
Programs that a repository could be made to run leave a file beside it, which a test looks for.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

OTHER_USER = 12345
_ENVIRONMENT = {
    "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
    "HOME": "/nonexistent",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
    "GIT_AUTHOR_DATE": "@1700000000 +0000",
    "GIT_COMMITTER_DATE": "@1700000000 +0000",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_ALLOW_PROTOCOL": "file",
    "LC_ALL": "C.UTF-8",
}


@dataclass(slots=True)
class Case:
    """A repository that was made: `code` is the folder that is configured.

    `whole` says that all of its work tree is to be taken, as `git add -A` would; `commits` that
    a commit can be made; `notes` are words that must stand in what is told of it; `readable`
    that there is a git repository to be read.
    """

    code: Path
    whole: bool = True
    commits: bool = True
    readable: bool = True
    notes: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)


Builder: TypeAlias = Callable[[Path], Case]
CASES: dict[str, Builder] = {}


def case(build: Builder) -> Builder:
    """Take a builder into the list, under its name."""
    CASES[build.__name__.replace("_", " ")] = build
    return build


def git(folder: Path, *arguments: str | bytes, ok: bool = True, given: bytes = b"") -> bytes:
    """A git command as a user would give it."""
    done = subprocess.run(
        ["git", "-c", "core.fsmonitor=false", *arguments],
        cwd=folder,
        env=_ENVIRONMENT,
        input=given,
        capture_output=True,
    )
    assert done.returncode == 0 or not ok, done.stderr.decode("utf-8", "replace")
    return done.stdout


def start(folder: Path, *options: str) -> Path:
    """A repository with two commits."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q", "-b", "main", *options)
    (folder / "train.py").write_text("print('loss')\n" * 20)
    (folder / "lib").mkdir()
    (folder / "lib" / "model.py").write_text("class Net: ...\n")
    (folder / ".gitignore").write_text("*.log\n/data/\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "Begin")
    (folder / "train.py").write_text("print('loss', 1)\n" * 20)
    git(folder, "commit", "-qam", "Learn faster")
    return folder


def dirty(folder: Path) -> None:
    """Changed, staged, deleted, renamed, new, ignored."""
    with (folder / "train.py").open("a") as file:
        file.write("print('changed')\n")
    (folder / "staged.py").write_text("staged\n")
    git(folder, "add", "staged.py")
    (folder / "staged.py").write_text("staged, then changed\n")
    (folder / "lib" / "model.py").unlink()
    (folder / "notes.md").write_text("new\n")
    (folder / "run.log").write_text("ignored\n")


def program(folder: Path, name: str, *, code: int = 1) -> Path:
    """A program that leaves a mark beside the repository when it runs."""
    path = folder.parent / name
    path.write_text(f"#!/bin/sh\ntouch {folder.parent}/RAN-{name}\ncat\nexit {code}\n")
    path.chmod(0o755)
    return path


def marks(folder: Path) -> list[str]:
    """What ran that must not."""
    return sorted(path.name for path in folder.parent.glob("RAN-*"))


def fingerprint(folder: Path, *, objects: bool) -> dict[str, object]:
    """All that must be the same before and after; `objects` says whether those count too."""
    found: dict[str, object] = {}
    top = folder
    while not (top / ".git").exists() and top != top.parent and not (top / "HEAD").exists():
        top = top.parent
    for base, _, names in os.walk(os.fsencode(top)):
        for name in names:
            path = os.path.join(base, name)
            place = os.fsdecode(os.path.relpath(path, os.fsencode(top)))
            if not objects and ("objects/" in place or "backupd" in place):
                continue
            about = os.lstat(path)
            if os.path.islink(path):
                content = os.fsencode(os.readlink(path))
            elif about.st_size > 1 << 22:
                content = b"%d" % about.st_size
            else:
                with open(path, "rb") as file:
                    content = file.read()
            digest = hashlib.sha256(content).hexdigest()
            # git marks objects as young when it finds that it need not write them again.
            time_ns = 0 if "objects/" in place or "sharedindex" in place else about.st_mtime_ns
            found[place] = (about.st_mode, time_ns, about.st_uid, digest)
    # Index, stash, HEAD and reflogs are among the files above, byte for byte.
    trust = ("-c", "safe.directory=*")
    words = ("status", "--porcelain=v2", "--branch", "--show-stash", "--untracked-files=all")
    found["git status"] = git(folder, *trust, *words, ok=False)
    return found


def expected_tree(folder: Path, scratch: Path) -> str:
    """The tree that `git add -A` makes of a copy."""
    shutil.copytree(folder, scratch, symlinks=True)
    for lock in scratch.glob(".git/*.lock"):
        lock.unlink()
    shutil.rmtree(scratch / ".git" / "hooks", ignore_errors=True)
    git(scratch, "-c", "core.safecrlf=false", "add", "-A")
    return git(scratch, "write-tree").decode().strip()


# -- the cases ---------------------------------------------------------------------------------


@case
def clean(folder: Path) -> Case:
    return Case(start(folder))


@case
def dirty_in_every_way(folder: Path) -> Case:
    dirty(start(folder))
    return Case(folder)


@case
def detached(folder: Path) -> Case:
    git(start(folder), "checkout", "-q", "HEAD~1")
    dirty(folder)
    return Case(folder)


@case
def with_a_submodule_that_moved(folder: Path) -> Case:
    other = start(folder.parent / "other")
    start(folder)
    git(
        folder, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "sub"
    )
    git(folder, "commit", "-qm", "With a submodule")
    (folder / "sub" / "train.py").write_text("changed within\n")
    git(folder / "sub", "commit", "-qam", "On")
    (folder / "sub" / "new.py").write_text("untracked within\n")
    return Case(folder)


@case
def a_linked_work_tree(folder: Path) -> Case:
    main = start(folder.parent / "main")
    git(main, "worktree", "add", "-q", "-b", "side", str(folder))
    dirty(folder)
    return Case(folder, whole=False)


@case
def in_the_middle_of_a_merge(folder: Path) -> Case:
    start(folder)
    git(folder, "checkout", "-qb", "other")
    (folder / "train.py").write_text("theirs\n")
    git(folder, "commit", "-qam", "Theirs")
    git(folder, "checkout", "-q", "main")
    (folder / "train.py").write_text("ours\n")
    git(folder, "commit", "-qam", "Ours")
    git(folder, "merge", "other", ok=False)
    return Case(folder)


@case
def in_the_middle_of_a_rebase(folder: Path) -> Case:
    in_the_middle_of_a_merge(folder)
    git(folder, "merge", "--abort")
    git(folder, "rebase", "other", ok=False)
    return Case(folder)


@case
def bisecting(folder: Path) -> Case:
    start(folder)
    git(folder, "bisect", "start", "HEAD", "HEAD~1")
    return Case(folder)


@case
def with_hooks_that_fail(folder: Path) -> Case:
    start(folder)
    for name in (
        "pre-commit", "commit-msg", "prepare-commit-msg", "post-commit", "pre-push",
        "reference-transaction", "post-index-change", "pre-auto-gc", "post-checkout",
        "fsmonitor-watchman",
    ):  # fmt: skip
        shutil.copy(program(folder, name), folder / ".git" / "hooks" / name)
    dirty_names = folder / "notes.md"
    dirty_names.write_text("new\n")
    return Case(folder)


@case
def with_a_huge_untracked_file(folder: Path) -> Case:
    start(folder)
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(50 << 30)
    (folder / "notes.md").write_text("new\n")
    return Case(folder, whole=False, notes=("weights.bin is larger than",))


@case
def without_any_commit(folder: Path) -> Case:
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    (folder / "train.py").write_text("print()\n")
    return Case(folder)


@case
def no_repository(folder: Path) -> Case:
    folder.mkdir(parents=True)
    (folder / "train.py").write_text("print()\n")
    return Case(folder, commits=False, readable=False, notes=("it is in no git repository",))


@case
def a_folder_that_is_not_there(folder: Path) -> Case:
    return Case(folder, commits=False, readable=False, notes=("No such file",))


@case
def with_the_index_locked(folder: Path) -> Case:
    dirty(start(folder))
    (folder / ".git" / "index.lock").write_bytes(b"")
    return Case(folder)


@case
def with_a_sparse_checkout(folder: Path) -> Case:
    start(folder)
    git(folder, "sparse-checkout", "set", "--no-cone", "/train.py", "/.gitignore")
    assert not (folder / "lib").exists()
    (folder / "train.py").write_text("changed\n")
    return Case(folder)


@case
def with_a_sparse_index(folder: Path) -> Case:
    start(folder)
    git(folder, "sparse-checkout", "set", "--cone", "--sparse-index")
    (folder / "train.py").write_text("changed\n")
    return Case(folder)


@case
def with_symlinks(folder: Path) -> Case:
    start(folder)
    (folder / "outside").symlink_to("/etc/passwd")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "folder").symlink_to("lib")
    (folder / "train.py").unlink()
    (folder / "train.py").symlink_to("lib/model.py")
    return Case(folder)


@case
def with_names_that_are_no_text(folder: Path) -> Case:
    start(folder)
    for name in (b"caf\xe9.py", b"new\nline.py", b'quo"te.py', b"-dash", b":(glob)x", b"tab\t"):
        with open(os.path.join(os.fsencode(folder), name), "w") as file:
            file.write("x\n")
    return Case(folder)


@case
def under_a_filter_as_of_lfs(folder: Path) -> Case:
    start(folder)
    (folder / "big.bin").write_text("version https://git-lfs\n")
    git(folder, "add", "big.bin")
    git(folder, "commit", "-qm", "A pointer")
    (folder / ".gitattributes").write_text("*.bin filter=lfs\n")
    git(folder, "add", ".gitattributes")
    git(folder, "commit", "-qm", "Under lfs")
    for what in ("clean", "smudge", "process"):
        git(folder, "config", f"filter.lfs.{what}", str(program(folder, f"lfs-{what}")))
    git(folder, "config", "filter.lfs.required", "true")
    (folder / "big.bin").write_text("what the pointer points to\n")
    return Case(folder, whole=False, notes=("big.bin is under the filter lfs",))


@case
def a_shallow_clone(folder: Path) -> Case:
    origin = start(folder.parent / "origin")
    git(folder.parent, "clone", "-q", "--depth=1", f"file://{origin}", folder.name)
    dirty(folder)
    return Case(folder)


@case
def with_alternates(folder: Path) -> Case:
    origin = start(folder.parent / "or:igin")
    git(folder.parent, "clone", "-q", "--shared", str(origin), folder.name)
    dirty(folder)
    return Case(folder)


@case
def in_a_folder_with_a_strange_name(folder: Path) -> Case:
    strange = folder / 'a:b "c"\n d'
    dirty(start(strange))
    return Case(strange)


@case
def of_another_user(folder: Path) -> Case:
    dirty(start(folder))
    give_away(folder)
    return Case(folder, whole=False)


@case
def that_its_owner_may_not_write(folder: Path) -> Case:
    dirty(start(folder))
    give_away(folder)
    for base, folders, _ in os.walk(folder / ".git"):
        for name in folders:
            os.chmod(os.path.join(base, name), 0o555)
    os.chmod(folder / ".git", 0o555)
    return Case(folder, whole=False, commits=False, notes=("insufficient permission",))


@case
def with_a_file_that_its_owner_may_not_read(folder: Path) -> Case:
    dirty(start(folder))
    give_away(folder)
    (folder / "root.txt").write_text("of root\n")
    (folder / "root.txt").chmod(0o600)
    return Case(folder, whole=False, notes=("root.txt was left out",))


@case
def with_a_monitor_and_other_programs(folder: Path) -> Case:
    start(folder)
    for key in (
        "core.fsmonitor", "diff.external", "core.pager", "core.editor", "core.sshCommand",
        "core.gitProxy", "gpg.program", "diff.mine.textconv", "diff.mine.command", "merge.m.driver",
        "core.askPass", "credential.helper", "core.alternateRefsCommand", "sequence.editor",
    ):  # fmt: skip
        git(folder, "config", key, str(program(folder, key)))
    git(folder, "config", "commit.gpgSign", "true")
    (folder / ".gitattributes").write_text("*.py diff=mine merge=m\n")
    (folder / "train.py").write_text("changed\n")
    return Case(folder)


@case
def with_a_repository_within(folder: Path) -> Case:
    start(folder)
    start(folder / "vendored")
    return Case(folder, whole=False, notes=("vendored/ is a repository of its own",))


@case
def with_files_that_became_folders(folder: Path) -> Case:
    start(folder)
    (folder / "train.py").unlink()
    (folder / "train.py").mkdir()
    (folder / "train.py" / "x.py").write_text("x\n")
    shutil.rmtree(folder / "lib")
    (folder / "lib").write_text("now a file\n")
    return Case(folder)


@case
def with_modes_that_changed(folder: Path) -> Case:
    start(folder)
    (folder / "train.py").chmod(0o755)
    return Case(folder)


@case
def with_line_ends_converted(folder: Path) -> Case:
    start(folder)
    git(folder, "config", "core.autocrlf", "true")
    git(folder, "config", "core.safecrlf", "true")
    (folder / "dos.py").write_bytes(b"one\r\ntwo\r\n")
    return Case(folder)


@case
def with_a_split_index(folder: Path) -> Case:
    start(folder)
    git(folder, "update-index", "--split-index")
    dirty(folder)
    return Case(folder)


@case
def with_an_untracked_cache(folder: Path) -> Case:
    start(folder)
    git(folder, "config", "core.untrackedCache", "true")
    git(folder, "update-index", "--untracked-cache")
    dirty(folder)
    git(folder, "status")
    return Case(folder)


@case
def with_stashes(folder: Path) -> Case:
    dirty(start(folder))
    git(folder, "stash", "-u")
    dirty(folder)
    return Case(folder)


@case
def packed_and_collected(folder: Path) -> Case:
    start(folder)
    git(folder, "tag", "-a", "v1", "-m", "one")
    git(folder, "gc", "-q", "--prune=now")
    dirty(folder)
    return Case(folder)


@case
def below_the_top_of_a_repository(folder: Path) -> Case:
    dirty(start(folder))
    (folder / "lib" / "new.py").write_text("new\n")
    return Case(folder / "lib", whole=False)


@case
def with_a_branch_in_the_way(folder: Path) -> Case:
    git(start(folder), "branch", "backupd")
    return Case(folder, commits=False, notes=("refs/heads/backupd",))


@case
def on_the_branch_of_snapshots(folder: Path) -> Case:
    git(start(folder), "checkout", "-qb", "backupd/m")
    dirty(folder)
    return Case(folder, commits=False, notes=("backupd/m is checked out",))


@case
def with_sha256(folder: Path) -> Case:
    dirty(start(folder, "--object-format=sha256"))
    return Case(folder)


@case
def with_files_to_be_added_later(folder: Path) -> Case:
    start(folder)
    (folder / "later.py").write_text("later\n")
    git(folder, "add", "-N", "later.py")
    return Case(folder)


@case
def with_changes_that_git_was_told_to_overlook(folder: Path) -> Case:
    start(folder)
    git(folder, "update-index", "--assume-unchanged", "train.py")
    git(folder, "update-index", "--skip-worktree", "lib/model.py")
    (folder / "train.py").write_text("overlooked\n")
    (folder / "lib" / "model.py").write_text("overlooked\n")
    return Case(folder)


@case
def bare(folder: Path) -> Case:
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "--bare")
    return Case(folder, commits=False, readable=False, notes=("without a work tree",))


@case
def with_a_broken_index(folder: Path) -> Case:
    start(folder)
    (folder / ".git" / "index").write_bytes(b"DIRC" + b"\xff" * 500)
    return Case(folder, commits=False, whole=False, notes=("index",))


@case
def without_an_index(folder: Path) -> Case:
    start(folder)
    (folder / ".git" / "index").unlink()
    (folder / "train.py").write_text("changed\n")
    return Case(folder)


@case
def that_lost_objects(folder: Path) -> Case:
    start(folder)
    blob = git(folder, "rev-parse", "HEAD:lib/model.py").decode().strip()
    (folder / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    dirty(folder)
    return Case(folder, whole=False, notes=("the changes cannot be told: git diff-tree",))


@case
def with_secrets(folder: Path) -> Case:
    start(folder)
    (folder / ".env").write_text("A=1\n")
    (folder / "config.yaml").write_text("token: hf_" + "a" * 34 + "\n")
    git(folder, "add", "config.yaml")
    (folder / "train.py").write_text("key = 'AKIA" + "Q" * 16 + "'\n")
    notes = (".env holds secrets", "config.yaml holds a Hugging", "train.py holds an AWS")
    return Case(folder, whole=False, notes=notes)


def give_away(folder: Path) -> None:
    """Make all of it another user's."""
    for base, folders, names in os.walk(folder):
        for name in (*folders, *names):
            os.lchown(os.path.join(base, name), OTHER_USER, OTHER_USER)
    os.lchown(folder, OTHER_USER, OTHER_USER)
