"""What the drop-in of the systemd unit must know of the machine, read once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from backupd.config.settings import S3Target, Settings

# Filesystems whose files can be cloned in a moment (ioctl_ficlone(2)).
_CLONING = frozenset({"xfs", "btrfs"})
_MAX_GITFILE = 4096


@dataclass(frozen=True, slots=True)
class Box:
    """What the drop-in must know of the machine.

    `program` is the command line that starts backupd, empty where the unit's own is right;
    `code` are the folders its code lies in. `mount_points` are those of the machine, and
    `foreign_folders` the target folders that do not belong to root. `git_folders` are those of
    the repositories that commits are made in, `foreign_code` says that one belongs to a user, and
    `cloning` are the models on filesystems that clone.
    """

    program: tuple[str, ...] = ()
    code: tuple[Path, ...] = ()
    mount_points: frozenset[Path] = frozenset()
    foreign_folders: frozenset[Path] = field(default=frozenset())
    git_folders: tuple[Path, ...] = ()
    foreign_code: bool = False
    cloning: tuple[Path, ...] = ()


def read_box(settings: Settings, *, program: Iterable[str], code: Iterable[Path]) -> Box:
    """The facts of this machine, from /proc/self/mountinfo and the targets' owners."""
    mounts = _mounts()
    commits = [
        model.code.path
        for model in settings.models.values()
        if model.code is not None and model.code.git != "record"
    ]
    foreign = set()
    for target in settings.targets.values():
        if isinstance(target, S3Target):
            continue
        try:
            if target.path.stat().st_uid != 0:
                foreign.add(target.path)
        except OSError:
            continue
    return Box(
        program=tuple(program),
        code=tuple(code),
        mount_points=frozenset(mounts),
        foreign_folders=frozenset(foreign),
        git_folders=tuple(dict.fromkeys(f for model in commits for f in _git_folders(model))),
        foreign_code=any(_is_foreign(path) for path in commits),
        cloning=tuple(
            model.path
            for model in settings.models.values()
            if _type_of(model.path, mounts) in _CLONING
        ),
    )


def _mounts() -> dict[Path, str]:
    """The filesystem's type at each mount point, the uppermost where several lie on another."""
    found = {}
    try:
        # proc(5): the fifth field is the mount point, with octal escapes; the type comes after
        # a field that is a hyphen.
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
            words = line.split()
            found[Path(_unescape(words[4]))] = words[words.index(b"-") + 1].decode()
    except (OSError, IndexError, ValueError):
        pass
    return found


def _type_of(path: Path, mounts: dict[Path, str]) -> str:
    real = Path(os.path.realpath(path))
    holding = [point for point in mounts if real.is_relative_to(point)]
    return mounts[max(holding, key=lambda point: len(point.parts))] if holding else ""


def _git_folders(code: Path) -> list[Path]:
    """Where git writes for a commit of `code`; of a work tree its repository's folder too."""
    for folder in (code, *code.parents):
        place = folder / ".git"
        try:
            if place.is_dir():
                return [place]
            if place.is_file():
                # gitrepository-layout(5): a file that names the folder, which may name another.
                own = folder / _line(place).removeprefix("gitdir: ")
                common = own / "commondir"
                shared = [own / _line(common)] if common.is_file() else []
                return [Path(os.path.normpath(found)) for found in (own, *shared)]
        except OSError:
            return []
    return []


def _line(file: Path) -> str:
    with file.open("rb") as opened:
        return os.fsdecode(opened.read(_MAX_GITFILE).split(b"\n")[0].strip())


def _is_foreign(path: Path) -> bool:
    try:
        return path.stat().st_uid != 0
    except OSError:
        return False


def _unescape(field: bytes) -> str:
    octal = re.compile(rb"\\([0-7]{3})")
    return os.fsdecode(octal.sub(lambda match: bytes([int(match[1], 8)]), field))
