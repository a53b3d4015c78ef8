"""The source code of a model as a snapshot keeps it: facts for the record, and files.

Whatever version control does wrong becomes a note among the facts, never an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backupd.capture.folders import shown
from backupd.capture.provenance.environment import LOCK_FILES, ran_on
from backupd.capture.provenance.git import (
    NO_REPOSITORY,
    GitRepository,
    NotARepositoryError,
    open_repository,
    without_credentials,
)
from backupd.capture.provenance.git_state import (
    MOST_FILE_BYTES,
    GitState,
    GitTrees,
    TreeFile,
    private_trees,
)
from backupd.capture.provenance.running import (
    ProgramError,
    Programs,
    account_of,
    may_become,
)
from backupd.capture.provenance.source import SourceFile, read_source, source_files
from backupd.capture.provenance.subversion import WorkingCopy, open_working_copy
from backupd.capture.secrets import is_secret_name, secret_in, without_secrets
from backupd.config.settings import CodeSettings
from backupd.errors import BackupdError

MOST_PATCH_BYTES = 16 << 20
MOST_SOURCE_BYTES = 256 << 20
_MOST_NOTES = 100
# The schemes that keep the code's files and not only how they differ from a commit.
KEEPING_SCHEMES = frozenset(("code+params", "everything"))


@dataclass(frozen=True, slots=True)
class CodeWish:
    """What is to be recorded: the settings, the scheme, and the paths (of models, targets, keys)
    that are no code though they may lie among it."""

    settings: CodeSettings
    scheme: str
    leave: tuple[Path, ...]
    include_secrets: bool
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class KeptFile:
    """One file or link of the code's tree; `content` of a link is its target."""

    path: bytes
    mode: int
    content: bytes


@dataclass(slots=True)
class CodeCapture:
    """What was found. `facts` are the record's, see docs/format.md; `repository` is where a commit
    can be made. The files can be read as long as the context of `capture_code` is open."""

    facts: dict[str, Any]
    seconds: int = 0
    repository: GitRepository | None = None
    _small: dict[bytes, bytes] = field(default_factory=dict)
    _trees: GitTrees | None = None
    _git: dict[bytes, TreeFile] = field(default_factory=dict)
    _disk: dict[bytes, SourceFile] = field(default_factory=dict)
    _include_secrets: bool = False

    def files(self) -> Iterator[KeptFile]:
        """The files of the code's tree in path order. Raises `BackupdError`."""
        for path, content in sorted(self._small.items()):
            if path < b"source/":
                yield KeptFile(path, 0o100644, content)
        yield from self._from_git()
        for path, file in sorted(self._disk.items()):
            read = read_source(file)
            if read is not None and self._may_keep(path, read):
                yield KeptFile(path, file.mode, read)

    def _from_git(self) -> Iterator[KeptFile]:
        if not self._git or self._trees is None:
            return
        paths = sorted(self._git)
        contents = self._trees.contents(self._git[path] for path in paths)
        for path, (file, content) in zip(paths, contents, strict=True):
            if file.mode & 0o170000 == 0o120000 or self._may_keep(path, content):
                yield KeptFile(path, file.mode, content)

    def _may_keep(self, path: bytes, content: bytes) -> bool:
        if self._include_secrets:
            return True
        kind = secret_in(content)
        if kind:
            self.note(f"{shown(path)} holds {kind}, so it was left out")
        return not kind

    def note(self, sentence: str) -> None:
        """Add a sentence to the facts."""
        notes = self.facts.setdefault("notes", [])
        if len(notes) < _MOST_NOTES:
            notes.append(sentence)


@contextmanager
def capture_code(wish: CodeWish) -> Iterator[CodeCapture]:
    """Look at a model's code. Nothing is raised but what the body raises."""
    capture = CodeCapture({"path": str(wish.settings.path), "system": "none"})
    capture._include_secrets = wish.include_secrets
    with ExitStack() as stack:
        try:
            programs = _programs(wish.settings.path, wish.environment)
            _look(wish, programs, capture, stack)
        except (BackupdError, OSError) as error:
            capture.note(f"{error}")
        except Exception as error:  # whatever is odd about the code, the model is to be stored
            capture.note(f"not all could be told: {type(error).__name__}: {error}")
        yield capture


def repository_of(path: Path, environment: Mapping[str, str]) -> GitRepository:
    """The git repository of a code folder. Raises `BackupdError`, `OSError`."""
    return open_repository(_programs(path, environment))


def _programs(path: Path, environment: Mapping[str, str]) -> Programs:
    folder = os.fsencode(path)
    account = account_of(folder)
    if account is not None and not may_become(account):
        account = None
    return Programs(folder, environment, account)


def _look(wish: CodeWish, programs: Programs, capture: CodeCapture, stack: ExitStack) -> None:
    found = ran_on(programs, wish.settings.path, wish.settings.python)
    capture.facts["environment"] = found.facts
    for note in found.notes:
        capture.note(note)
    capture._small[b"environment.json"] = found.document()
    if requirements := found.requirements():
        capture._small[b"requirements.txt"] = requirements
    try:
        repository = open_repository(programs)
    except NotARepositoryError as no_git:
        copy = open_working_copy(programs)
        if copy is not None:
            _look_at_subversion(wish, copy, capture)
        else:
            if wish.settings.git != "record":
                capture.note(f"{wish.settings.path}: {no_git.message}; no commit is made")
            elif no_git.message != NO_REPOSITORY:
                capture.note(f"{wish.settings.path}: {no_git.message}")
            _keep_from_disk(wish, capture, None)
    else:
        _look_at_git(wish, repository, capture, stack)
    capture.facts["kept"] = sorted(
        {path.split(b"/", 1)[0].decode().split(".", 1)[0] for path in
         (*capture._small, *capture._git, *capture._disk)} - {"environment"}
    )  # fmt: skip


def _look_at_git(
    wish: CodeWish, repository: GitRepository, capture: CodeCapture, stack: ExitStack
) -> None:
    facts = capture.facts
    head = repository.head()
    facts |= {"system": "git", "commit": head, "branch": repository.branch()}
    if repository.prefix:
        facts["prefix"] = os.fsdecode(repository.prefix)
    remote = repository.remote()
    if remote:
        facts["remote"] = without_credentials(repository.address(remote))
    if state := repository.state():
        facts["state"] = state
    if head:
        shown_time = repository.ask("log", "-1", "--format=%ct", head)
        capture.seconds = int(shown_time) if shown_time.isdigit() else 0
    keep_objects = wish.settings.git != "record"
    account = account_of(repository.top)
    if keep_objects and account is not None and repository.programs.account is None:
        capture.note(
            f"no commit is made: the repository belongs to {account.name}, whom this process may"
            " not act for"
        )
        keep_objects = False
    if keep_objects:
        try:
            trees, state_now = _state(wish, repository, head, stack, keep_objects=True)
        except ProgramError as error:
            capture.note(f"no commit is made: {error.message}")
            keep_objects = False
    if not keep_objects:
        trees, state_now = _state(wish, repository, head, stack, keep_objects=False)
    facts["dirty"] = state_now.dirty
    if state_now.submodules:
        facts["submodules"] = dict(list(state_now.submodules.items())[:_MOST_NOTES])
    for note in state_now.notes:
        capture.note(note)
    if keep_objects:
        facts["tree"] = state_now.whole
        capture.repository = repository
    capture._trees = trees
    _keep_from_git(wish, trees, state_now, repository.prefix, capture)


def _state(
    wish: CodeWish,
    repository: GitRepository,
    head: str,
    stack: ExitStack,
    *,
    keep_objects: bool,
) -> tuple[GitTrees, GitState]:
    trees = stack.enter_context(
        private_trees(
            repository,
            keep_objects=keep_objects,
            include_secrets=wish.include_secrets,
            leave=_below(repository.top, wish.leave),
        )
    )
    return trees, trees.state(head)


def _keep_from_git(
    wish: CodeWish, trees: GitTrees, state: GitState, prefix: bytes, capture: CodeCapture
) -> None:
    if state.tracked != state.base and capture.facts["commit"]:
        try:
            _keep_patch(trees.patch(state.base, state.tracked, prefix), capture)
        except ProgramError as error:
            capture.note(f"the changes cannot be told: {error.message}")
    untracked = set(trees.added(state.tracked, state.whole))
    whole = list(trees.files(state.whole, prefix))
    for file in _bounded(whole, capture, said=wish.scheme in KEEPING_SCHEMES):
        path = file.path.removeprefix(prefix)
        if not wish.include_secrets and is_secret_name(file.path):
            if wish.scheme in KEEPING_SCHEMES:
                capture.note(f"{shown(file.path)} holds secrets by its name, so it was left out")
            continue
        if wish.scheme in KEEPING_SCHEMES or not capture.facts["commit"]:
            capture._git[b"source/" + path] = file
        elif file.path in untracked:
            capture._git[b"untracked/" + path] = file
        elif path in LOCK_FILES:
            capture._git[b"locks/" + path] = file


def _keep_patch(patch: bytes, capture: CodeCapture) -> None:
    if not capture._include_secrets:
        patch, left_out = without_secrets(patch)
        if left_out:
            capture.note(f"the changes of {left_out} files show secrets, so they were left out")
    if len(patch) > MOST_PATCH_BYTES:
        capture.note(
            f"the changes take more than {MOST_PATCH_BYTES >> 20} MiB, so they were left out"
        )
    elif patch:
        capture._small[b"changes.patch"] = patch


def _bounded(files: Iterable[TreeFile], capture: CodeCapture, *, said: bool) -> Iterator[TreeFile]:
    total = 0
    for file in files:
        if file.size_bytes > MOST_FILE_BYTES or total + file.size_bytes > MOST_SOURCE_BYTES:
            if said:
                capture.note(f"{shown(file.path)} is too large for code, so it was left out")
            continue
        total += file.size_bytes
        yield file


def _look_at_subversion(wish: CodeWish, copy: WorkingCopy, capture: CodeCapture) -> None:
    facts = capture.facts
    facts |= {
        "system": "subversion",
        "url": without_credentials(copy.url),
        "revision": copy.revision,
    }
    status = copy.status()
    facts["dirty"] = bool(status.changed or status.unversioned)
    if status.changed:
        _keep_patch(copy.patch(), capture)
    _keep_from_disk(wish, capture, status.unversioned, ignored=status.ignored)


def _keep_from_disk(
    wish: CodeWish,
    capture: CodeCapture,
    unversioned: frozenset[bytes] | None,
    *,
    ignored: Iterable[bytes] = (),
) -> None:
    """Keep files as they lie in the folder: all under a scheme that keeps code, else of a working
    copy those that are not versioned, and lock files."""
    whole = wish.scheme in KEEPING_SCHEMES
    root = os.fsencode(wish.settings.path)
    left_out: list[str] = []
    total = 0
    for file in source_files(root, leave=(*_below(root, wish.leave), *ignored)):
        path = file.path
        new = unversioned is not None and any(
            path == name or path.startswith(name + b"/") for name in unversioned
        )
        if not (whole or new or path in LOCK_FILES):
            continue
        if not wish.include_secrets and is_secret_name(path):
            left_out.append(f"{shown(path)} holds secrets by its name, so it was left out")
        elif file.size_bytes > MOST_FILE_BYTES or total + file.size_bytes > MOST_SOURCE_BYTES:
            left_out.append(f"{shown(path)} is too large for code, so it was left out")
        else:
            total += file.size_bytes
            kind = b"source/" if whole else b"untracked/" if new else b"locks/"
            capture._disk[kind + path] = file
    for sentence in left_out:
        capture.note(sentence)


def _below(top: bytes, paths: Iterable[Path]) -> tuple[bytes, ...]:
    """The paths relative to `top`, of those that lie in it and are another."""
    top = os.path.realpath(top)
    real = (os.path.realpath(os.fsencode(path)) for path in paths)
    inside = top.rstrip(b"/") + b"/"
    return tuple(os.path.relpath(path, top) for path in real if path.startswith(inside))
