"""The commits of a model's code, one a version, on a branch of their own beside the user's.

A commit is made before its snapshot is listed, so that the snapshot names it, and the branch moves
after: what is killed in between is made good by the next run, as the snapshot says what the branch
must hold. Each commit follows that of the version before, and the commit of the code where that
moved, so that the branch reads as the history of the model.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

from backupd.capture.provenance.git import GitRepository, without_credentials
from backupd.errors import BackupdError
from backupd.operations.installation import Installation
from backupd.repository.snapshots import SnapshotRecord

_TRIES = 3
_MOST_STATE = 4096


def branch_of(model: str) -> str:
    """The branch of a model's commits. git-check-ref-format(1) forbids a little that a name may
    be."""
    name = re.sub(r"\.{2,}", ".", model).rstrip(".")
    return f"backupd/{name.removesuffix('.lock') or name}"


def with_commit(
    repository: GitRepository, record: SnapshotRecord, before: SnapshotRecord | None
) -> SnapshotRecord:
    """The record with the commit of its code, which is on no branch yet.

    `before` is the snapshot before it. Raises `ProgramError`.
    """
    code = record.code
    branch = branch_of(record.model)
    parent = repository.tip(branch)
    earlier = str(before.code.get("side_commit", "")) if before else ""
    # Where the branch could not follow the last time, its commit is what this one follows.
    if (
        earlier
        and earlier != parent
        and repository.has(f"{earlier}^{{commit}}")
        and (not parent or repository.contains(earlier, parent))
    ):
        parent = earlier
    commit = _commit(repository, record, parent, str(code.get("commit", "")))
    return replace(record, code={**code, "side_branch": branch, "side_commit": commit})


def _commit(repository: GitRepository, record: SnapshotRecord, parent: str, head: str) -> str:
    parents = [parent] if parent else []
    if head and head != parent and not (parent and repository.contains(parent, head)):
        parents.append(head)
    name = f"{record.model}@v{record.version}"
    message = (
        f"Update {record.model} to version {record.version}\n\n"
        f"Backupd-Snapshot: {name}\nBackupd-Host: {record.host}\n"
    )
    return repository.commit_tree(
        str(record.code["tree"]),
        parents,
        message,
        who=f"backupd@{record.host}",
        seconds=int(record.time),
    )


def follow(repository: GitRepository, record: SnapshotRecord) -> None:
    """Move the branch to the commit of a listed snapshot, where it does not hold it yet.

    Raises `BackupdError`.
    """
    branch, commit = str(record.code["side_branch"]), str(record.code["side_commit"])
    why = f"backupd: {record.model}@v{record.version}"
    for attempt in range(1, _TRIES + 1):
        tip = repository.tip(branch)
        if tip and (tip == commit or repository.contains(tip, commit)):
            return
        if branch in repository.checked_out():
            raise BackupdError(
                f"the branch {branch} is checked out, so no commit is made on it",
                hint="it is backupd's own; make another one of it to work on",
            )
        if not repository.has(f"{commit}^{{commit}}"):
            raise BackupdError(f"the commit {commit[:12]} of {branch} is gone from the repository")
        target = commit
        if tip and not repository.contains(commit, tip):
            # Somebody committed there as well: both histories go on.
            target = _commit(repository, record, tip, commit)
        try:
            repository.move(branch, target, tip, why)
            return
        except BackupdError:
            if attempt == _TRIES:
                raise


class Pushes:
    """What was pushed of each model's branch, by a small file in the state folder."""

    def __init__(self, installation: Installation, model: str) -> None:
        self._file = installation.settings.state_dir / "code" / f"{model}.pushed"
        self._keeps = not installation.standalone

    def push(self, repository: GitRepository, branch: str) -> str:
        """Push the branch where it is not known to be there; what was pushed, empty for nothing.

        Raises `BackupdError`.
        """
        tip = repository.tip(branch)
        remote = repository.remote()
        if not tip:
            return ""
        if not remote:
            raise BackupdError("there is no remote to push to", hint="`git remote add origin URL`")
        address = repository.address(remote, push=True)
        mark = f"{tip} {hashlib.sha256(address.encode()).hexdigest()}\n"
        if self._read() == mark:
            return ""
        try:
            repository.push(address, tip, branch)
        except BackupdError as error:
            shown = without_credentials(address)
            message = error.message.replace(address, shown)
            raise BackupdError(f"{branch} could not be pushed to {shown}: {message}") from None
        self._write(mark)
        return tip

    def _read(self) -> str:
        try:
            with self._file.open("r", encoding="ascii", errors="replace") as file:
                return file.read(_MOST_STATE)
        except OSError:
            return ""

    def _write(self, mark: str) -> None:
        if not self._keeps:
            return
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside = self._file.with_suffix(".tmp")
            beside.write_text(mark, encoding="ascii")
            beside.replace(self._file)
        except OSError:
            return  # it is pushed once more, which changes nothing
