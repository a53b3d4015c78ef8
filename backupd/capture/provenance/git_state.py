"""The state of a work tree as git trees, made in an index of our own.

What a `git add -A` would take is taken, honouring `.gitignore`, but for what is too large, holds
secrets, or is under a filter (which would have to be run). gitattributes(5), git-update-index(1).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from backupd.capture.folders import shown
from backupd.capture.provenance.git import GitRepository, object_id
from backupd.capture.provenance.running import ProgramError, Programs, working_folder
from backupd.capture.secrets import MOST_BYTES as SECRET_BYTES
from backupd.capture.secrets import is_secret_name, why_secret

MOST_FILE_BYTES = 4 << 20
MOST_CHANGED_BYTES = 64 << 20
MOST_PATHS = 20_000
_MOST_INDEX_BYTES = 1 << 30
_PORTION = 200
# What git says where it is not the file that is at fault but where its content is to go.
_CANNOT_WRITE = (
    "into database",
    "repository database",
    "loose object",
    "temporary file",
    "No space left",
    "Disk quota",
)
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A file of a git tree. `path` is relative to the top; `mode` as git writes it."""

    path: bytes
    mode: int
    object_id: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GitState:
    """What a work tree holds: `tracked` is the tree of what git knows, `whole` with untracked
    files too, `base` the tree of the commit. `submodules` are commits by path."""

    base: str
    tracked: str
    whole: str
    dirty: bool
    submodules: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class GitTrees:
    """Makes and reads trees; `variables` are git's for the private index. See `private_trees`."""

    def __init__(
        self,
        repository: GitRepository,
        work: bytes,
        *,
        keep_objects: bool,
        include_secrets: bool,
        leave: Sequence[bytes],
    ) -> None:
        """`work` is a folder of our own. With `keep_objects` the trees go into the repository,
        else beside it. What lies below the paths `leave` stays out."""
        self.notes: list[str] = []
        self._repository = repository
        self._include_secrets = include_secrets
        self._leave = tuple(path.rstrip(b"/") for path in leave)
        self._submodules: dict[bytes, None] = {}
        self._variables = {
            "GIT_INDEX_FILE": os.fsdecode(os.path.join(work, b"index")),
            "GIT_LITERAL_PATHSPECS": "1",
        }
        if not keep_objects:
            self._variables |= {
                "GIT_OBJECT_DIRECTORY": os.fsdecode(os.path.join(work, b"objects")),
                "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(repository.objects),
            }

    def _git(self, *arguments: str | bytes, given: bytes = b"") -> bytes:
        return self._repository.run(*arguments, given=given, variables=self._variables)

    def read_head(self) -> None:
        """Begin with what the commit holds, where the repository has no index."""
        self._git("read-tree", "HEAD")

    def state(self, head: str) -> GitState:
        """The trees of what the work tree holds now. Raises `ProgramError`."""
        empty = object_id(self._git("hash-object", "-t", "tree", "/dev/null"))
        base = object_id(self._git("rev-parse", f"{head}^{{tree}}")) if head else empty
        changed = dict.fromkeys(self._changed())
        staged = [] if not head else self._raw("diff-index", "--cached", base)
        known = dict.fromkeys([*changed, *staged])
        taken = self._worth_taking([path for path in known if path not in self._submodules])
        refused = [p for p in known if p not in taken and p not in self._submodules]
        self._update([*(p for p in changed if p in taken), *self._submodules])
        self._reset(refused, head)
        tracked = self._write_tree()
        untracked = self._worth_taking(self._untracked())
        self._update(list(untracked))
        whole = self._write_tree() if untracked else tracked
        dirty = whole != base or bool(refused)
        return GitState(base, tracked, whole, dirty, self._submodule_commits(), tuple(self.notes))

    # -- which paths ------------------------------------------------------------------------------

    def _changed(self) -> list[bytes]:
        """Paths whose files may differ from the index; submodules go aside."""
        return self._raw("diff-files")

    def _raw(self, command: str, *arguments: str) -> list[bytes]:
        # A submodule's own state would take a git of its own; whether its commit moved is enough.
        answer = self._git(
            command, "--raw", "-z", "--no-renames", "--ignore-submodules=dirty", *arguments
        )
        parts = answer.split(b"\0")
        found = []
        for head, path in zip(parts[::2], parts[1::2], strict=False):
            modes = head.lstrip(b":").split(b" ")[:2]
            if b"160000" in modes:
                self._submodules[path] = None
            else:
                found.append(path)
        return found

    def _untracked(self) -> list[bytes]:
        listed = self._git("ls-files", "-z", "--others", "--exclude-standard")
        found = []
        for path in listed.split(b"\0")[:-1]:
            if self._is_left(path):
                continue
            if path.endswith(b"/"):
                self._leave_out(path, "is a repository of its own, so it was left out")
            else:
                found.append(path)
        if len(found) > MOST_PATHS:
            self.notes.append(
                f"{len(found):,} untracked files; the first {MOST_PATHS:,} were looked at"
            )
        return found[:MOST_PATHS]

    def _worth_taking(self, paths: Sequence[bytes]) -> dict[bytes, None]:
        """Those of the paths that may be read; the others are noted."""
        filtered = self._filtered(paths)
        taken: dict[bytes, None] = {}
        total = 0
        for path in paths:
            if self._is_left(path):
                continue
            full = os.path.join(self._repository.top, path)
            try:
                found = os.lstat(full)
            except FileNotFoundError:
                taken[path] = None  # deleted, which is a change like another
                continue
            except OSError:
                taken[path] = None  # a folder on the way became a file, or git will say
                continue
            why = ""
            if path in filtered:
                why = f"is under the filter {filtered[path]}, so its change was left out"
            elif stat.S_ISREG(found.st_mode):
                why = self._why_not(path, full, found.st_size)
                if not why and total + found.st_size > MOST_CHANGED_BYTES:
                    why = "is more than is kept of all changes together, so it was left out"
                total += 0 if why else found.st_size
            if why:
                self._leave_out(path, why)
            else:
                taken[path] = None
        return taken

    def _why_not(self, path: bytes, full: bytes, size: int) -> str:
        if size > MOST_FILE_BYTES:
            return f"is larger than {MOST_FILE_BYTES >> 20} MiB, so it was left out"
        if self._include_secrets:
            return ""
        if is_secret_name(path) or size > SECRET_BYTES:
            return why_secret(path, b"")
        try:
            descriptor = os.open(full, _OPEN)
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        with open(descriptor, "rb") as file:
            return why_secret(path, file.read(SECRET_BYTES))

    def _filtered(self, paths: Sequence[bytes]) -> dict[bytes, str]:
        if not paths:
            return {}
        given = b"".join(path + b"\0" for path in paths)
        parts = self._git("check-attr", "-z", "--stdin", "filter", given=given).split(b"\0")
        return {
            path: value.decode("utf-8", "replace")
            for path, value in zip(parts[::3], parts[2::3], strict=False)
            if value not in (b"unspecified", b"unset")
        }

    def _is_left(self, path: bytes) -> bool:
        """Whether a path is one of those that are to stay out, or lies in one."""
        return any(path == left or path.startswith(left + b"/") for left in self._leave)

    def _leave_out(self, path: bytes, why: str) -> None:
        self.notes.append(f"{shown(path)} {why}")

    # -- the index --------------------------------------------------------------------------------

    def _update(self, paths: Sequence[bytes]) -> None:
        """Take the paths into the index as they are; one that git refuses is noted.

        Raises `ProgramError` where nothing can be written.
        """
        if not paths:
            return
        given = b"".join(path + b"\0" for path in paths)
        try:
            self._git(
                "update-index", "-z", "--add", "--remove", "--replace", "--stdin", given=given
            )
        except ProgramError as error:
            if any(words in error.message for words in _CANNOT_WRITE):
                raise
            if len(paths) == 1:
                self._leave_out(paths[0], f"was left out: {error.message}")
                return
            middle = len(paths) // 2
            self._update(paths[:middle])
            self._update(paths[middle:])

    def _reset(self, paths: Sequence[bytes], head: str) -> None:
        """Give paths back what the commit says of them; out of the index with the others."""
        if not paths:
            return
        nothing = b"0" * max(len(head), 40)
        lines = [b"0 " + nothing + b"\t" + path + b"\0" for path in paths]
        # In portions, as they are arguments.
        for at in range(0, len(paths) if head else 0, _PORTION):
            part = paths[at : at + _PORTION]
            listed = self._git("ls-tree", "-z", "-r", "--full-tree", head, "--", *part)
            lines += [line + b"\0" for line in listed.split(b"\0")[:-1]]
        self._git("update-index", "-z", "--index-info", given=b"".join(lines))

    def _write_tree(self) -> str:
        return object_id(self._git("write-tree", "--missing-ok"))

    def _submodule_commits(self) -> dict[str, str]:
        found = {}
        try:
            listed = self._git("ls-files", "-z", "--stage")
        except ProgramError:
            return {}  # of so many files that it would take too long
        for line in listed.split(b"\0"):
            if line.startswith(b"160000 "):
                head, _, path = line.partition(b"\t")
                found[shown(path)] = head.split(b" ")[1].decode()
        return found

    # -- reading ----------------------------------------------------------------------------------

    def files(self, tree: str, prefix: bytes = b"") -> Iterator[TreeFile]:
        """The files and links of a tree, below `prefix` where it is given."""
        arguments: list[str | bytes] = ["ls-tree", "-z", "-r", "-l", "--full-tree", tree]
        if prefix:
            arguments += ["--", prefix]
        for line in self._git(*arguments).split(b"\0")[:-1]:
            head, _, path = line.partition(b"\t")
            mode, kind, name, size = head.split()
            if kind == b"blob":
                yield TreeFile(path, int(mode, 8), name.decode(), int(size) if size != b"-" else 0)

    def added(self, before: str, after: str) -> Iterator[bytes]:
        """The paths that a tree has and an earlier one has not."""
        if before != after:
            listed = self._git(
                "diff-tree",
                "-r",
                "-z",
                "--name-only",
                "--no-renames",
                "--diff-filter=A",
                before,
                after,
            )
            yield from listed.split(b"\0")[:-1]

    def patch(self, before: str, after: str, prefix: bytes = b"") -> bytes:
        """How one tree becomes another, in git's form with binary differences."""
        arguments: list[str | bytes] = [
            "diff-tree", "-p", "-r", "--binary", "--full-index", "--no-renames", "--no-ext-diff",
            "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/", before, after,
        ]  # fmt: skip
        if prefix:
            arguments.insert(1, b"--relative=" + prefix)
        return self._git(*arguments)

    def contents(self, files: Iterable[TreeFile]) -> Iterator[tuple[TreeFile, bytes]]:
        """The content of files, in their order. Raises `ProgramError` where one is missing."""
        wanted = list(files)
        given = b"".join(file.object_id.encode() + b"\n" for file in wanted)
        with self._repository.stream(
            "cat-file", "--batch", given=given, variables=self._variables
        ) as output:
            for file in wanted:
                words = output.readline(200).split()
                if len(words) != 3 or not words[2].isdigit():
                    raise ProgramError(f"git does not have the content of {shown(file.path)}")
                content = output.read(int(words[2]))
                output.read(1)
                yield file, content


@contextmanager
def private_trees(
    repository: GitRepository,
    *,
    keep_objects: bool,
    include_secrets: bool,
    leave: Sequence[bytes] = (),
) -> Iterator[GitTrees]:
    """An index of our own, a copy of the repository's, in a folder that goes away again."""
    programs = repository.programs
    with working_folder(programs) as work:
        index = os.path.join(work, b"index")
        programs.run(["mkdir", "--", os.path.join(work, b"objects")])
        copied = _copy_index(programs, os.path.join(repository.folder, b"index"), index)
        trees = GitTrees(
            repository,
            work,
            keep_objects=keep_objects,
            include_secrets=include_secrets,
            leave=leave,
        )
        if not copied and repository.head():
            trees.read_head()
        yield trees


def _copy_index(programs: Programs, source: bytes, to: bytes) -> bool:
    """Copy the index with its time, by which git tells what may have changed since (racy-git)."""
    try:
        found = os.stat(source, follow_symlinks=False)
    except OSError:
        return False
    if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_INDEX_BYTES:
        raise ProgramError(f"{shown(source)} is no index that could be read")
    programs.run(["cp", "--no-dereference", "--preserve=timestamps", "--", source, to])
    return True


def _quoted(path: bytes) -> str:
    """A path for a list that is separated by colons: git reads C quotes there."""
    text = os.fsdecode(path)
    if ":" not in text and not text.startswith('"'):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
