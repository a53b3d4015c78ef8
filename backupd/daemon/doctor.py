"""What `doctor` looks at: the key, the targets, the folders, inotify, room, clocks, the daemon.

Each finding says what was seen in one sentence, and the mend where there is one to make. Beside
the small objects of a probe nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path, PurePosixPath

from backupd import errors
from backupd.config.settings import ModelSettings, S3Target
from backupd.daemon import client
from backupd.daemon.mounts import parse_mounts, remote_mount
from backupd.daemon.watcher import probe_inotify
from backupd.errors import BackupdError
from backupd.operations.installation import Installation
from backupd.operations.probing import probe, refuse
from backupd.targets.capabilities import Capabilities, Creation, Lock, Ranges

_GIB = 1 << 30
# Below either of them a note, below a hundredth of the disk no snapshot may count on it.
_LITTLE_BYTES = 5 * _GIB
_LITTLE_SHARE = 0.05
_NO_SHARE = 0.005
_MAX_FOLDERS = 300_000
_MOUNTINFO = Path("/proc/self/mountinfo")
_WATCHES = Path("/proc/sys/fs/inotify/max_user_watches")


class Verdict(StrEnum):
    """What a finding means: all is well, something to know, or something that must be mended."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `exit_code` is that of a bad one, else 0."""

    check: str
    subject: str
    verdict: Verdict
    message: str
    hint: str = ""
    exit_code: int = errors.EXIT_DONE


def examine(installation: Installation, names: list[str]) -> Iterator[Finding]:
    """Look at the machine, as the configuration has it and the targets `names`.

    Nothing is raised for what is wrong: that is a finding.
    """
    settings = installation.settings
    for warning in settings.warnings:
        yield _note("configuration", "", warning)
    models = ", ".join(settings.models) or "none"
    yield _good("configuration", "", f"{settings.source} is right; models: {models}")
    opens = yield from _key(installation)
    for name in names:
        yield from _target(installation, name, opens=opens)
    yield from _room("state_dir", "", settings.state_dir)
    mounts = _MOUNTINFO.read_text(errors="surrogateescape") if _MOUNTINFO.exists() else ""
    for model in settings.models.values():
        yield from _model(model, mounts)
    yield from _watches([model.path for model in settings.models.values()])
    yield _daemon(settings.state_dir)


def exit_code(findings: list[Finding]) -> int:
    """That of what is bad, where it is of one kind; 1 where it is of several."""
    codes = {finding.exit_code for finding in findings if finding.verdict is Verdict.BAD}
    if not codes:
        return errors.EXIT_DONE
    return codes.pop() if len(codes) == 1 else errors.EXIT_FAILED


def _key(installation: Installation) -> Generator[Finding, None, bool]:
    """Findings on the key; returns whether there is one to open repositories with."""
    key = installation.settings.key
    if not key.encryption:
        yield _note("key", "", "encryption is off: whoever reads a target reads the models")
        return True
    try:
        installation.secret()
    except BackupdError as error:
        yield _bad("key", "", error)
        return False
    place = key.file or key.passphrase_file
    whence = f"in {place}" if place else "given by a command or the environment"
    yield _good("key", "", f"the key is there, {whence}")
    return True


def _target(installation: Installation, name: str, *, opens: bool) -> Iterator[Finding]:
    settings = installation.settings.targets[name]
    location = installation.target(name).location
    if isinstance(settings, S3Target) and settings.as_of:
        yield _note("target", name, f"{location} is looked at as it was, and is not probed")
    else:
        try:
            found = probe(installation, name)
            refuse(found, name, location)
        except BackupdError as error:
            yield _bad("target", name, error)
            return
        yield _good("target", name, f"{location}: {_seen(found, isinstance(settings, S3Target))}")
        for remark in found.remarks():
            yield _note("target", name, remark)
    if not isinstance(settings, S3Target):
        yield from _room("target", name, settings.path)
    if not opens:
        return
    try:
        installation.repository(name)
    except BackupdError as error:
        yield _bad("repository", name, error)
    else:
        yield _good("repository", name, "the repository opens with the key")


def _seen(found: Capabilities, is_store: bool) -> str:
    """What a probe saw, in a line."""
    parts = []
    if found.creation is Creation.ATOMIC:
        parts.append("one of racing writers wins")
    if found.ranges is Ranges.PARTIAL:
        parts.append("parts are read right")
    if found.listing:
        parts.append("listings are up to date")
    if is_store:
        if found.checksums:
            parts.append("checksums are verified")
        parts.append("versions are kept" if found.versioning else "no versions are kept")
        lock = {Lock.ABSENT: "no Object Lock", Lock.ENABLED: "Object Lock is enabled"}
        parts.append(lock.get(found.object_lock, f"Object Lock {found.object_lock} by default"))
    return ", ".join(parts)


def _room(check: str, name: str, path: Path) -> Iterator[Finding]:
    """Whether the disk under `path` has room; the nearest folder that is there is asked."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        about = os.statvfs(place)
    except OSError as error:
        failure = errors.TargetError(f"{path} cannot be looked at: {error.strerror}")
        yield _bad(check, name, failure)
        return
    free, total = about.f_bavail * about.f_frsize, about.f_blocks * about.f_frsize
    share = free / total if total else 1.0
    said = f"{path} has {free / _GIB:,.1f} GiB free ({100 * share:.0f} %)"
    if share < _NO_SHARE:
        full = errors.TargetFullError(said, hint="make room, or run `backupd forget` and `prune`")
        yield _bad(check, name, full)
    elif share < _LITTLE_SHARE or free < _LITTLE_BYTES:
        yield _note(check, name, f"{said}: that is little", "make room before it is full")
    else:
        yield _good(check, name, said)
    if about.f_files and about.f_favail < about.f_files // 100:
        hint = "remove files, or make the filesystem anew with more inodes"
        yield _note(check, name, f"{path} has {about.f_favail:,} inodes free: that is little", hint)


def _model(model: ModelSettings, mounts: str) -> Iterator[Finding]:
    path = model.path
    try:
        with os.scandir(path) as entries:
            next(entries, None)
    except FileNotFoundError:
        yield _note("model", model.name, f"{path} does not exist yet")
        return
    except OSError as error:
        hint = "correct `path`, or the rights of its folders"
        failure = BackupdError(f"{path} cannot be read: {error.strerror}", hint=hint)
        yield _bad("model", model.name, failure)
        return
    real = PurePosixPath(os.path.realpath(path))
    mount = remote_mount(real, parse_mounts(mounts), below=not model.one_filesystem)
    if mount is not None:
        yield _note(
            "model",
            model.name,
            f"{mount.point} is {mount.type}: what others write there is not told by inotify, so"
            " each scheduled run scans the folder",
        )
        return
    why = probe_inotify(path)
    if why:
        yield _note("model", model.name, f"{path} is scanned at each scheduled run: {why}")
    else:
        yield _good("model", model.name, f"{path} is there and can be watched")


def _watches(paths: list[Path]) -> Iterator[Finding]:
    """Whether the kernel's limit allows a watch on each folder of all models."""
    try:
        limit = int(_WATCHES.read_text())
    except (OSError, ValueError):
        return
    folders = sum(1 for path in paths for _ in islice(os.walk(path), _MAX_FOLDERS))
    said = f"folders to watch: {folders:,}; inotify allows {limit:,}"
    if folders > limit // 2:
        yield _note("inotify", "", said, f"sysctl fs.inotify.max_user_watches={folders * 4}")
    else:
        yield _good("inotify", "", said)


def _daemon(state_dir: Path, ask: Callable[[Path], object] = client.status) -> Finding:
    try:
        ask(state_dir)
    except client.DaemonAbsentError:
        hint = "systemctl start backupd, or `backupd run`"
        return _note("daemon", "", "the daemon is not running: nothing watches the models", hint)
    except BackupdError as error:
        return _bad("daemon", "", error)
    return _good("daemon", "", "the daemon runs and answers")


def _good(check: str, subject: str, message: str) -> Finding:
    return Finding(check, subject, Verdict.GOOD, message)


def _note(check: str, subject: str, message: str, hint: str = "") -> Finding:
    return Finding(check, subject, Verdict.NOTE, message, hint)


def _bad(check: str, subject: str, error: BackupdError) -> Finding:
    return Finding(check, subject, Verdict.BAD, str(error), error.hint, error.exit_code)
