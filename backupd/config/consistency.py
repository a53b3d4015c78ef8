"""What takes two values of a configuration to see: names that are not defined, places that meet.

Pure but for `os.path.realpath` on folders of this box, so that a link does not hide a meeting.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path as FilePath

from backupd.config.document import Document, Path
from backupd.config.problems import Problem, problem_at
from backupd.config.settings import (
    LocalTarget,
    ModelSettings,
    NasTarget,
    S3Target,
    Settings,
)
from backupd.config.values import check_name
from backupd.policy.nearest import nearest_names


def find_inconsistencies(document: Document, settings: Settings) -> list[Problem]:
    """Everything that is wrong between values which are each right."""
    problems = [*_bad_names(document), *_empty_sections(document, settings)]
    for model in settings.models.values():
        problems += _undefined_names(document, settings, model)
    problems += _missing_projects(document, settings)
    problems += _meeting_places(document, settings)
    problems += _meeting_buckets(document, settings)
    return problems


def find_warnings(document: Document, settings: Settings) -> tuple[str, ...]:
    """Sentences on what is allowed and yet unwise."""
    found: list[str] = []

    def warn(path: Path, sentence: str) -> None:
        found.append(f"{document.file}:{document.line(path)}: {sentence}")

    secrets: list[tuple[Path, FilePath | None]] = [
        (("key", "file"), settings.key.file),
        (("key", "passphrase_file"), settings.key.passphrase_file),
        (("notify", "urls_file"), settings.notify.urls_file),
    ]
    folders: dict[str, FilePath] = {}
    for name, target in settings.targets.items():
        if isinstance(target, S3Target):
            secrets.append((("targets", name, "credentials_file"), target.credentials_file))
            key = target.sse_customer_key_file
            secrets.append((("targets", name, "sse_customer_key_file"), key))
        else:
            folders[name] = target.path
    for where, file in secrets:
        if file is None:
            continue
        if _readable_by_others(file):
            warn(where, f"{file} can be read by others; run chmod 600 {file}")
        for name, folder in folders.items():
            if file.is_relative_to(folder):
                warn(
                    where,
                    f"{file} lies within the target {name!r}, so whoever has the target has the"
                    " key; move it elsewhere",
                )
    used_targets = {name for model in settings.models.values() for name in model.targets}
    for name in settings.targets:
        if name not in used_targets:
            warn(("targets", name), f"the target {name!r} is used by no model")
    used_policies = {
        name for model in settings.models.values() for names in model.targets.values()
        for name in names
    }  # fmt: skip
    for name in settings.policies:
        if name not in used_policies:
            warn(("policies", name), f"the policy {name!r} is used by no model")
    for name, model in settings.models.items():
        problem = _folder_problem(model.path)
        if problem:
            warn(("models", name, "path"), f"{model.path} {problem}")
        code_problem = _folder_problem(model.code.path) if model.code else ""
        if model.code and code_problem:
            warn(("models", name, "code", "path"), f"{model.code.path} {code_problem}")
    return tuple(found)


def _folder_problem(path: FilePath) -> str:
    try:
        return "" if stat.S_ISDIR(path.stat().st_mode) else "is no folder"
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist yet"
    except OSError as error:
        return f"cannot be looked into ({error.strerror})"


def _readable_by_others(file: FilePath) -> bool:
    try:
        mode = file.stat().st_mode
    except (OSError, ValueError):
        return False
    return bool(mode & (stat.S_IRGRP | stat.S_IROTH))


def _bad_names(document: Document) -> Iterator[Problem]:
    for section in ("targets", "policies", "models"):
        names = document.root.get(section)
        for name in names if isinstance(names, dict) else ():
            try:
                check_name(name)
            except ValueError as error:
                message, _, hint = str(error).partition("; ")
                yield problem_at(document, (section, name), f"{name!r} {message}", hint)


def _empty_sections(document: Document, settings: Settings) -> Iterator[Problem]:
    for section, things, example in (
        ("targets", settings.targets, "disk: {type: local, path: /var/backups/models}"),
        ("policies", settings.policies, "working: {keep_last: 5, keep_daily: 7}"),
        ("models", settings.models, "my-model: {path: /srv/my-model, targets: {disk: working}}"),
    ):
        if not things:
            yield problem_at(document, (section,), "there is none", f"add one, such as {example}")


def _undefined_names(
    document: Document, settings: Settings, model: ModelSettings
) -> Iterator[Problem]:
    where: Path = ("models", model.name, "targets")
    if not model.targets:
        yield problem_at(
            document, where, "the model goes to no target", "name one, such as {disk: working}"
        )
    for target, policies in model.targets.items():
        if target not in settings.targets:
            yield problem_at(
                document,
                (*where, target),
                f"there is no target {target!r}",
                _known(target, settings.targets, "targets"),
            )
        for policy in policies:
            if policy not in settings.policies:
                yield problem_at(
                    document,
                    (*where, target),
                    f"there is no policy {policy!r}",
                    _known(policy, settings.policies, "policies"),
                )


def _known(wanted: str, known: object, what: str) -> str:
    names = list(known) if isinstance(known, dict) else []
    near = nearest_names(wanted, names, count=1)
    return f"did you mean {near[0]!r}?" if near else f"the {what} are {', '.join(names)}"


def _missing_projects(document: Document, settings: Settings) -> Iterator[Problem]:
    if "{project_name}" not in settings.naming:
        return
    for name, model in settings.models.items():
        if not model.project:
            yield problem_at(
                document,
                ("models", name),
                "'project' is missing, and naming holds {project_name}",
                "write project: with a name, or take {project_name} out of naming",
            )


def _meeting_places(document: Document, settings: Settings) -> Iterator[Problem]:
    """Folders that are one another or within one another, where that must not be."""
    places: list[tuple[Path, str, str, FilePath]] = []
    for name, target in settings.targets.items():
        if isinstance(target, LocalTarget):
            real = FilePath(os.path.realpath(target.path))
            places.append((("targets", name, "path"), "target", name, real))
        elif isinstance(target, NasTarget):
            # A dead NFS server would hang realpath, and with it every command.
            places.append((("targets", name, "path"), "target", name, target.path))
    for name, model in settings.models.items():
        real = FilePath(os.path.realpath(model.path))
        places.append((("models", name, "path"), "model", name, real))
    state = FilePath(os.path.realpath(settings.state_dir))
    places.append((("state_dir",), "state_dir", "", state))
    for index, (where, kind, name, path) in enumerate(places):
        for _, other_kind, other_name, other in places[:index]:
            if not (path.is_relative_to(other) or other.is_relative_to(path)):
                continue
            # The state may hold a target or a model, and lie in none of them.
            if kind == "state_dir" and not path.is_relative_to(other):
                continue
            yield _meeting(document, where, (kind, name, path), (other_kind, other_name, other))


def _meeting(
    document: Document,
    where: Path,
    mine: tuple[str, str, FilePath],
    theirs: tuple[str, str, FilePath],
) -> Problem:
    kind, _, path = mine
    other_kind, other_name, other = theirs
    other_title = f"the {other_kind} {other_name!r}"
    if path == other:
        message = f"{path} is also the path of {other_title}"
    elif path.is_relative_to(other):
        message = f"{path} lies within {other}, the path of {other_title}"
    else:
        message = f"{path} holds {other}, the path of {other_title}"
    hints = {
        ("model", "model"): "watch the outer folder as one model, or give each a folder of its own",
        ("model", "target"): "keep the repository outside of what it backs up",
        ("target", "target"): "give each target a folder of its own",
        ("state_dir", "model"): "keep the state outside of what is backed up",
        ("state_dir", "target"): "give the state a folder of its own",
    }
    return problem_at(document, where, message, hints[kind, other_kind])


def _meeting_buckets(document: Document, settings: Settings) -> Iterator[Problem]:
    seen: dict[tuple[str, str, str], str] = {}
    for name, target in settings.targets.items():
        if not isinstance(target, S3Target):
            continue
        place = (target.endpoint_url, target.bucket, target.prefix)
        if place in seen:
            shown = f"s3://{target.bucket}/{target.prefix}".rstrip("/")
            yield problem_at(
                document,
                ("targets", name),
                f"{shown} is also the place of the target {seen[place]!r}",
                "give each target a prefix of its own",
            )
        seen.setdefault(place, name)
