"""A git repository, asked and never disturbed: no index, work tree, HEAD, stash, hook or filter of
its own is touched or run. What a repository configures to be run is switched off by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING

from backupd.capture.provenance.running import MOST_BYTES, ProgramError, Programs
from backupd.errors import BackupdError

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILTER = re.compile(r"filter\.(.*)\.(?:clean|smudge|process|required)", re.DOTALL)
_OLDEST = (2, 31)  # GIT_CONFIG_COUNT came with it
_OBJECT = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_STATES = {
    b"MERGE_HEAD": "merge",
    b"rebase-merge": "rebase",
    b"rebase-apply": "rebase",
    b"CHERRY_PICK_HEAD": "cherry-pick",
    b"REVERT_HEAD": "revert",
    b"BISECT_LOG": "bisect",
}
# See git-config(1) for each. The environment variables are in git(1).
_CONFIGURATION = {
    "safe.directory": "*",  # that is to keep a repository's programs from running; none runs here
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.untrackedCache": "false",
    "core.splitIndex": "false",
    "core.alternateRefsCommand": "",
    "core.safecrlf": "false",
    "core.quotePath": "true",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "diff.external": "",
    "i18n.commitEncoding": "UTF-8",
    "push.gpgSign": "false",
    "submodule.recurse": "false",
    "advice.detachedHead": "false",
}
_VARIABLES = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "/bin/false",
    "SSH_ASKPASS": "/bin/false",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "/bin/false",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
}
_NO_NETWORK = {"GIT_ALLOW_PROTOCOL": "none"}  # a partial clone would fetch what it lacks
_NETWORK = {"GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh"}


NO_REPOSITORY = "it is in no git repository"


class NotARepositoryError(BackupdError):
    """The folder is in no git repository."""


@dataclass(frozen=True, slots=True)
class GitRepository:
    """A repository with a work tree that holds the folder `prefix` (with `/` at the end, or
    empty). `objects` is its object folder; `variables` and `configuration` are git's for it."""

    programs: Programs
    top: bytes
    folder: bytes
    objects: bytes
    prefix: bytes
    configuration: Mapping[str, str] = field(default_factory=lambda: _CONFIGURATION)

    def run(
        self,
        *arguments: str | bytes,
        given: bytes = b"",
        variables: Mapping[str, str] | None = None,
        most_bytes: int = MOST_BYTES,
        network: bool = False,
    ) -> bytes:
        """The output of a git command in the top folder. Raises `ProgramError`."""
        return self.programs.run(
            ["git", "--no-pager", *arguments],
            given=given,
            variables=self._environment(variables, network=network),
            most_bytes=most_bytes,
        )

    def ask(self, *arguments: str | bytes) -> bytes:
        """A command whose answer is one line: that line, empty where git exits with 1."""
        try:
            return _line(self.run(*arguments))
        except ProgramError as error:
            if error.code == 1:
                return b""
            raise

    @contextmanager
    def stream(
        self,
        *arguments: str | bytes,
        given: bytes = b"",
        variables: Mapping[str, str] | None = None,
    ) -> Iterator[IO[bytes]]:
        """As `run`, for an answer that is read while it comes."""
        with self.programs.stream(
            ["git", "--no-pager", *arguments],
            given=given,
            variables=self._environment(variables, network=False),
        ) as output:
            yield output

    def _environment(self, more: Mapping[str, str] | None, *, network: bool) -> dict[str, str]:
        variables = {**_VARIABLES, **(_NETWORK if network else _NO_NETWORK)}
        return {**variables, **configured(self.configuration), **(more or {})}

    # -- what HEAD is --------------------------------------------------------------------------

    def head(self) -> str:
        """The commit that HEAD names, empty where there is none yet."""
        return self.ask("rev-parse", "--quiet", "--verify", "HEAD^{commit}").decode()

    def branch(self) -> str:
        """The branch that HEAD is on, empty where it is detached."""
        name = self.ask("symbolic-ref", "--quiet", "HEAD")
        return _text(name.removeprefix(b"refs/heads/"))

    def remote(self) -> str:
        """The name of the remote that the branch follows, else `origin`, else the only one."""
        branch = self.branch()
        follows = self.ask("config", "--get", f"branch.{branch}.remote") if branch else b""
        names = [_text(name) for name in self.run("remote").splitlines()]
        if _text(follows) in names:
            return _text(follows)
        if "origin" in names:
            return "origin"
        return names[0] if len(names) == 1 else ""

    def address(self, remote: str, *, push: bool = False) -> str:
        """A remote's address as it is configured, credentials and all."""
        found = self.ask("config", "--get", f"remote.{remote}.pushurl") if push else b""
        return _text(found or self.ask("config", "--get", f"remote.{remote}.url"))

    def state(self) -> str:
        """What is under way: `merge`, `rebase` and the like; empty where nothing is."""
        for name, state in _STATES.items():
            if os.path.lexists(os.path.join(self.folder, name)):
                return state
        return ""

    # -- the branch of snapshots ------------------------------------------------------------------

    def tip(self, branch: str) -> str:
        """The commit that a branch is at, empty where it does not exist."""
        return self.ask(
            "rev-parse", "--quiet", "--verify", f"refs/heads/{branch}^{{commit}}"
        ).decode()

    def contains(self, descendant: str, commit: str) -> bool:
        """Whether a commit is another or one of those before it."""
        try:
            self.run("merge-base", "--is-ancestor", commit, descendant)
        except ProgramError as error:
            if error.code == 1:
                return False
            raise
        return True

    def has(self, name: str) -> bool:
        """Whether an object is there."""
        try:
            self.run("cat-file", "-e", name)
        except ProgramError:
            return False
        return True

    def checked_out(self) -> set[str]:
        """The branches that this or another work tree is on."""
        found = set()
        for line in self.run("worktree", "list", "--porcelain").splitlines():
            if line.startswith(b"branch refs/heads/"):
                found.add(_text(line.removeprefix(b"branch refs/heads/")))
        return found

    def commit_tree(
        self, tree: str, parents: Sequence[str], message: str, *, who: str, seconds: int
    ) -> str:
        """Make a commit, on no branch; its id. `who` is used where git has no name for the user."""
        name = _text(self.ask("config", "--get", "user.name")) or "backupd"
        mail = _text(self.ask("config", "--get", "user.email")) or who
        told: dict[str, str] = {}
        for role in ("AUTHOR", "COMMITTER"):
            told |= {
                f"GIT_{role}_NAME": name,
                f"GIT_{role}_EMAIL": mail,
                f"GIT_{role}_DATE": f"@{seconds} +0000",
            }
        arguments = [part for parent in parents for part in ("-p", parent)]
        made = self.run(
            "commit-tree", *arguments, tree, given=message.encode(), variables=told
        )  # it takes no notice of commit.gpgSign
        return _line(made).decode()

    def move(self, branch: str, commit: str, before: str, why: str) -> None:
        """Move a branch from `before` (empty: it must not exist). Raises `ProgramError`."""
        absent = "0" * len(commit)
        reference = f"refs/heads/{branch}"
        self.run(
            "update-ref", "--no-deref", "--create-reflog", "-m", why, reference, commit,
            before or absent,
        )  # fmt: skip

    def push(self, address: str, commit: str, branch: str) -> None:
        """Send a commit to a branch of a remote, never by force. Raises `ProgramError`.

        The remote is named by its address, so that none of its settings (mirror, refspecs) count
        and no remote-tracking branch moves.
        """
        # Of a repository's own programs only those that reach the remote run: ssh, credentials.
        self.run(
            "push", "--porcelain", "--no-verify", "--no-follow-tags", "--no-signed",
            "--recurse-submodules=no", address, f"{commit}:refs/heads/{branch}",
            network=True,
        )  # fmt: skip


def configured(configuration: Mapping[str, str]) -> dict[str, str]:
    """Configuration as environment variables, which hold names that `-c` cannot (git-config(1))."""
    told = {"GIT_CONFIG_COUNT": str(len(configuration))}
    for number, (key, value) in enumerate(configuration.items()):
        told |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return told


def open_repository(programs: Programs) -> GitRepository:
    """The repository that holds the folder of `programs`.

    Raises `NotARepositoryError`, and `ProgramError` where git is not there or refuses.
    """
    bare = GitRepository(programs, programs.folder, b"", b"", b"")
    _require_version(bare.ask("version"))
    try:
        inside = bare.ask("rev-parse", "--is-inside-work-tree")
        if inside != b"true":
            raise NotARepositoryError("it is a git repository without a work tree")
        top = bare.ask("rev-parse", "--show-toplevel")
    except ProgramError as error:
        if error.code == 128 and "not a git repository" in error.message:
            raise NotARepositoryError(NO_REPOSITORY) from None
        raise
    if programs.account is None and os.geteuid() == 0:
        # A repository can name any folder as its work tree, and root may read them all.
        owner = os.stat(programs.folder).st_uid
        if owner not in (0, os.stat(top).st_uid):
            raise NotARepositoryError("its work tree belongs to another user than the code")
    folder = bare.ask("rev-parse", "--absolute-git-dir")
    objects = os.path.join(programs.folder, bare.ask("rev-parse", "--git-path", "objects"))
    prefix = bare.ask("rev-parse", "--show-prefix")
    found = replace(
        bare,
        programs=replace(programs, folder=top),
        top=top,
        folder=folder,
        objects=os.path.normpath(objects),
        prefix=prefix,
    )
    return replace(found, configuration={**_CONFIGURATION, **_no_filters(found)})


def _require_version(told: bytes) -> None:
    """Raises `ProgramError` where git would not hear the configuration it is given here."""
    found = re.match(rb"git version (\d+)\.(\d+)", told)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST:
        name = told.decode("utf-8", "replace") or "git"
        raise ProgramError(f"{name} is too old: 2.31 is the first that can be told to run nothing")


def _no_filters(repository: GitRepository) -> dict[str, str]:
    """Configuration that makes every filter of the repository do nothing (gitattributes(5))."""
    keys = r"^filter\..*\.(clean|smudge|process|required)$"
    listed = repository.ask("config", "-z", "--name-only", "--get-regexp", keys)
    off: dict[str, str] = {}
    for key in listed.split(b"\0"):
        match = _FILTER.fullmatch(_text(key))
        if match:
            for what, value in (
                ("clean", ""),
                ("smudge", ""),
                ("process", ""),
                ("required", "false"),
            ):
                off[f"filter.{match[1]}.{what}"] = value
    return off


def object_id(text: bytes) -> str:
    """An object's name as git printed it. Raises `ProgramError` where it is none."""
    line = _line(text)
    if not _OBJECT.fullmatch(line):
        raise ProgramError("git gave something that is no object")
    return line.decode()


def without_credentials(address: str) -> str:
    """An address without user and password; the user stays where it names no person (ssh)."""
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/@]*@)?([^?#]*).*", address, re.DOTALL)
    if match is None:
        return address
    scheme, user, rest = match.groups()
    keep = ""
    if user and scheme.lower() in ("ssh://", "git+ssh://", "svn+ssh://"):
        keep = user[:-1].split(":", 1)[0] + "@"
    return scheme + keep + rest


def _line(answer: bytes) -> bytes:
    return answer.removesuffix(b"\n")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
