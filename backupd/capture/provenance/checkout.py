"""Source that was committed, written into a folder; the one place that makes version control give.

Filters and hooks of a repository are as little run as when it is looked at.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from backupd.capture.provenance.git import GitRepository, open_repository
from backupd.capture.provenance.running import Programs
from backupd.errors import BackupdError

_FETCH_SECONDS = 600.0


def check_out_git(
    code: Mapping[str, Any], place: Path, environment: Mapping[str, str]
) -> tuple[str, bool]:
    """Write what a snapshot's code was in git into `place`.

    The answer is where it was found, and whether it is the commit alone, to which the changes
    are still to be applied. Raises `BackupdError`.
    """
    commit, tree = _object(code, "commit"), _object(code, "tree")
    path, remote = str(code.get("path", "")), str(code.get("remote", ""))
    repository = _here(path, environment)
    if repository is not None:
        for name, differs in ((tree, False), (commit, True)):
            if name and repository.has(f"{name}^{{tree}}"):
                _write(repository, name, repository.prefix, place)
                return f"{'tree' if name == tree else 'commit'} {name[:12]} of {path}", differs
    if not (remote and (commit or _object(code, "side_commit"))):
        raise BackupdError(
            f"commit {commit[:12] or '(none)'} is not in {path}, and there is no remote to ask",
            hint="the schemes code+params and everything keep the source itself",
        )
    prefix = os.fsencode(str(code.get("prefix", "")))
    told: list[str] = []
    # The commit of the snapshot itself holds the changes too, where it was pushed.
    for name, branch, differs in (
        (_object(code, "side_commit"), str(code.get("side_branch", "")), False),
        (commit, str(code.get("branch", "")), True),
    ):
        if not name:
            continue
        with tempfile.TemporaryDirectory(prefix="backupd-code-") as made:
            try:
                fetched = _fetch(name, branch, remote, Path(made), environment)
            except BackupdError as error:
                told.append(error.message)
                continue
            _write(fetched, name, prefix, place)
            return f"commit {name[:12]} of {remote}", differs
    raise BackupdError(
        "; ".join(told), hint="the schemes code+params and everything keep the source itself"
    )


def _object(code: Mapping[str, Any], key: str) -> str:
    """The name of an object; empty where it is none, which git might take for an option."""
    name = str(code.get(key, ""))
    return name if re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", name) else ""


def _here(path: str, environment: Mapping[str, str]) -> GitRepository | None:
    try:
        return open_repository(Programs(os.fsencode(path), environment))
    except (BackupdError, OSError):
        return None


def _fetch(
    wanted: str, branch: str, remote: str, folder: Path, environment: Mapping[str, str]
) -> GitRepository:
    """Fetch the commit alone, else the branch that holds it. Raises `BackupdError`."""
    programs = Programs(os.fsencode(folder), environment, seconds=_FETCH_SECONDS)
    empty = GitRepository(programs, programs.folder, b"", b"", b"")
    empty.run("init", "--quiet", f"--object-format={'sha256' if len(wanted) > 40 else 'sha1'}")
    told: BackupdError | None = None
    for name in filter(None, (wanted, branch)):
        depth = ["--depth=1"] if name == wanted else []
        try:
            empty.run("fetch", "--quiet", "--no-tags", *depth, "--", remote, name, network=True)
        except BackupdError as error:
            told = told or error
            continue
        if empty.has(f"{wanted}^{{commit}}"):
            return empty
    raise BackupdError(
        f"commit {wanted[:12]} cannot be had from {remote}" + (f": {told.message}" if told else "")
    )


def _write(repository: GitRepository, name: str, prefix: bytes, place: Path) -> None:
    """Write a tree's files below `place`, through an index of our own."""
    with tempfile.TemporaryDirectory(prefix="backupd-code-") as made:
        variables = {"GIT_INDEX_FILE": os.path.join(made, "index")}
        plain = replace(
            repository,
            configuration={**repository.configuration, "core.autocrlf": "false",
                           "core.sparseCheckout": "false"},
        )  # fmt: skip
        tree: str | bytes = f"{name}^{{tree}}"
        if prefix:
            tree = name.encode() + b":" + prefix.rstrip(b"/")
        plain.run("read-tree", tree, variables=variables)
        place.mkdir(parents=True, exist_ok=True)
        plain.run(
            "checkout-index", "--all", "--force", b"--prefix=" + os.fsencode(place) + b"/",
            variables=variables,
        )  # fmt: skip


def apply_patch(patch: Path, place: Path, environment: Mapping[str, str], *, strip: int) -> None:
    """Apply the kept changes, with `strip` names less of each path. Raises `BackupdError`."""
    programs = Programs(os.fsencode(place), environment)
    nowhere = GitRepository(programs, programs.folder, b"", b"", b"")
    # A repository above would take the paths for its own.
    ceiling = {"GIT_CEILING_DIRECTORIES": os.fspath(place.parent)}
    nowhere.run("apply", "--whitespace=nowarn", f"-p{strip}", os.fspath(patch), variables=ceiling)


def export_subversion(code: Mapping[str, Any], place: Path, environment: Mapping[str, str]) -> str:
    """Write a revision's files below `place`; where they are from. Raises `BackupdError`."""
    url, revision = str(code.get("url", "")), int(code.get("revision", 0))
    with tempfile.TemporaryDirectory(prefix="backupd-svn-") as configuration:
        programs = Programs(os.fsencode(place.parent), environment, seconds=_FETCH_SECONDS)
        programs.run(
            ["svn", "--non-interactive", "--config-dir", configuration, "export", "--quiet",
             "--force", "-r", str(revision), "--", f"{url}@{revision}", os.fspath(place)],
        )  # fmt: skip
    return f"revision {revision} of {url}"
