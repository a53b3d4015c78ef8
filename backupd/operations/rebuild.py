"""A box set up again from what its target holds: the configuration kept there, and the key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backupd.config.find import SYSTEM_FILE, user_file
from backupd.config.settings import KeySettings, LocalTarget, NasTarget, S3Target, TargetSettings
from backupd.errors import BackupdError, NotFoundError, UsageError
from backupd.repository.repository import Repository
from backupd.repository.snapshots import SnapshotRecord

_ENDS = "\r\n"


@dataclass(frozen=True, slots=True)
class LostBox:
    """One host that a repository has snapshots of: its newest one, and the newest that holds a
    configuration, None where none does.
    """

    host: str
    newest: SnapshotRecord
    configured: SnapshotRecord | None


def lost_boxes(repository: Repository) -> list[LostBox]:
    """The hosts that a repository has snapshots of, the one with the newest first.

    Raises `NotFoundError` where there is none.
    """
    found: dict[str, LostBox] = {}
    records = [snapshot.record for snapshot in repository.list_snapshots().snapshots]
    for record in sorted(records, key=lambda record: record.time):
        before = found.get(record.host)
        configured = record if record.config else before.configured if before else None
        found[record.host] = LostBox(record.host, record, configured)
    if not found:
        raise NotFoundError(
            f"the repository at {repository.target.location} lists no snapshot",
            hint="without one there is nothing to set a box up from; see docs/disaster.md",
        )
    return sorted(found.values(), key=lambda box: -box.newest.time)


def choose_box(boxes: list[LostBox], host: str) -> LostBox:
    """The box that is to be set up again, with a configuration. Raises `UsageError` where `host`
    must be named, `NotFoundError` where there is no such host or no configuration of it.
    """
    names = ", ".join(box.host for box in boxes)
    if not host and len(boxes) > 1:
        raise UsageError(
            f"the repository holds snapshots of {len(boxes)} hosts",
            hint=f"say which this box is to be with --host: {names}",
        )
    for box in boxes:
        if host in ("", box.host):
            if box.configured is None:
                raise NotFoundError(
                    f"no snapshot of {box.host} holds its configuration",
                    hint="an older backupd took them; write one by hand (docs/disaster.md)",
                )
            return box
    raise NotFoundError(f"there is no snapshot of a host {host!r}", hint=f"there are: {names}")


def new_config_path(lost: SnapshotRecord, environment: Mapping[str, str], *, root: bool) -> Path:
    """Where the configuration goes: the system's place for root where it was there, else this
    user's. Raises `UsageError` where there is none.
    """
    if root and lost.config_path == str(SYSTEM_FILE):
        return SYSTEM_FILE
    path = user_file(environment)
    if path is None:
        raise UsageError("HOME is not set", hint="name the new file with --config")
    return path


def write_secret(key: KeySettings, secret: str) -> Path | None:
    """Write the secret into the file that the configuration names; its path, None for none.

    One that is there already and holds the same stays. Raises `BackupdError`.
    """
    path = key.file or key.passphrase_file
    if path is None:
        return None
    try:
        there = path.read_text("utf-8", "surrogateescape").rstrip(_ENDS)
    except FileNotFoundError:
        write_new(path, (secret + "\n").encode("utf-8", "surrogateescape"))
        return path
    except OSError as error:
        raise BackupdError(
            f"{path} cannot be read: {error.strerror}", hint="run as a user who may read it"
        ) from None
    if there != secret:
        raise BackupdError(
            f"{path} is there already and holds another key",
            hint="move it away if it is not needed, and run this again",
        )
    return path


def write_credentials(
    target: TargetSettings, source: TargetSettings, environment: Mapping[str, str]
) -> Path | None:
    """The file that a target's credentials were written into, None where none was.

    It is for the target that the box is set up from, when its file is absent and the environment
    has the keys that opened it. Ones that end by themselves are not written.
    """
    if not isinstance(target, S3Target) or not same_place(target, source):
        return None
    key_id = environment.get("AWS_ACCESS_KEY_ID", "")
    secret = environment.get("AWS_SECRET_ACCESS_KEY", "")
    lasting = key_id and secret and not environment.get("AWS_SESSION_TOKEN")
    path = target.credentials_file
    if path is None or path.exists() or not lasting:
        return None
    text = f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = {secret}\n"
    write_new(path, text.encode())
    return path


def write_new(path: Path, data: bytes) -> None:
    """Make a file (mode 0600) that must not be there. Raises `BackupdError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise BackupdError(
            f"{path} is there already, and is not written over",
            hint="move it away, or name another file with --config",
        ) from None
    except OSError as error:
        raise BackupdError(
            f"{path} cannot be written: {error.strerror}",
            hint="name another file with --config, or run as a user who may write there",
        ) from None


def same_place(one: TargetSettings, other: TargetSettings) -> bool:
    """Whether two targets are one place."""
    if isinstance(one, S3Target) and isinstance(other, S3Target):
        return (one.bucket, one.prefix) == (other.bucket, other.prefix)
    if isinstance(one, LocalTarget | NasTarget) and isinstance(other, LocalTarget | NasTarget):
        return os.path.realpath(one.path) == os.path.realpath(other.path)
    return False
