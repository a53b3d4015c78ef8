"""Making the repositories of all targets, with one master key for all of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from backupd.codec.chunking_parameters import ChunkingParameters
from backupd.codec.secrets import MASTER_KEY_SIZE
from backupd.config.settings import LocalTarget, S3Target
from backupd.errors import BackupdError, ObjectMissingError, TargetError, WrongKeyError
from backupd.operations.installation import Installation, environment_has_secret
from backupd.repository import keys, layout
from backupd.repository.descriptor import Descriptor, parse_descriptor
from backupd.repository.opening import unlock
from backupd.targets.base import Target


@dataclass(frozen=True, slots=True)
class InitReport:
    """What `init` did. `recovery_key` is empty where no repository was made or none is sealed."""

    recovery_key: str
    created: tuple[str, ...]
    present: tuple[str, ...]
    key_file: Path | None
    failed: Mapping[str, BackupdError]


def initialise(installation: Installation, *, source: Target | None = None) -> InitReport:
    """Make a repository on each target that has none; a key file that is absent is generated.

    With `source`, a target that holds a repository, new ones take its keys where no target of
    the configuration has any. A target that cannot be reached is named in the report and made by
    the next call. Raises the failure when no target could be reached, and `WrongKeyError` when a
    target that has a repository is not opened by the configured key.
    """
    descriptors: dict[str, Descriptor | None] = {}
    failed: dict[str, BackupdError] = {}
    for name in installation.nearest_first(installation.settings.targets):
        try:
            descriptors[name] = _descriptor_of(_prepared(installation, name))
        except TargetError as error:
            failed[name] = error
    if not descriptors:
        raise next(iter(failed.values()))
    encrypted = installation.settings.key.encryption
    present = [name for name, descriptor in descriptors.items() if descriptor is not None]
    _refuse_mixture(installation, descriptors, encrypted)
    missing = [name for name, descriptor in descriptors.items() if descriptor is None]
    joined = installation.target(present[0]) if present else source
    key_file = _make_key_file(installation, joined is not None) if encrypted else None
    for name, found in descriptors.items():
        if found is not None:
            location = installation.target(name).location
            installation.identities.accept(name, location, found.repository_id)
    if not missing:
        return InitReport("", (), tuple(present), key_file, failed)
    there = [descriptor for descriptor in descriptors.values() if descriptor]
    if not there and source is not None and (found := _descriptor_of(source)) is not None:
        there = [found]
    chunking = there[0].chunking if there else ChunkingParameters()
    recovery_key = ""
    wrapped: list[tuple[str, bytes]] = []
    if encrypted:
        created = datetime.fromtimestamp(installation.clock(), UTC).isoformat(timespec="seconds")
        if joined is not None:
            # Joining targets that exist: their keys open the new ones too.
            unlock(joined, installation.secret())
            wrapped = _key_objects(joined)
        else:
            master_key = installation.random(MASTER_KEY_SIZE)
            recovery_key = keys.generate_secret(installation.random)
            wrapped = [
                keys.wrap(
                    master_key, secret, label=label, created=created, random=installation.random
                )
                for secret, label in (
                    (installation.secret(), "configuration"),
                    (recovery_key, "recovery"),
                )
            ]
    for name in missing:
        target = installation.target(name)
        for key_id, stored in wrapped:
            target.put(f"{layout.KEYS}{key_id}.json", [stored])
        repository_id = installation.random(16).hex()
        descriptor = Descriptor(repository_id, encrypted, chunking)
        # Last, as it is what makes a repository of the rest.
        if not target.put_if_absent(layout.DESCRIPTOR, [descriptor.to_json()]):
            raise TargetError(
                f"another process made a repository at {target.location} just now",
                hint="run 'backupd init' again",
            )
        installation.identities.accept(name, target.location, repository_id)
    return InitReport(recovery_key, tuple(missing), tuple(present), key_file, failed)


def _prepared(installation: Installation, name: str) -> Target:
    """The target with its folder made, where it has one, and seen to do what is needed.

    A disk of this box is not probed: what the kernel promises of it is enough.
    """
    from backupd.targets.open import prepare_target

    settings = installation.settings.targets[name]
    prepare_target(settings)
    target = installation.target(name)
    past = isinstance(settings, S3Target) and settings.as_of
    if not (isinstance(settings, LocalTarget) or past):
        from backupd.operations.probing import probe, refuse

        refuse(probe(installation, name), name, target.location)
        if isinstance(settings, S3Target) and settings.object_lock_mode:
            from backupd.targets.s3_lock_probe import refuse_without_lock

            refuse_without_lock(settings, now=installation.clock())
    return target


def _descriptor_of(target: Target) -> Descriptor | None:
    try:
        stored = target.get(layout.DESCRIPTOR, layout.MAX_DESCRIPTOR)
    except ObjectMissingError:
        leftover = next(iter(target.list(layout.PACKS)), None)
        if leftover is not None:
            raise TargetError(
                f"{target.location} has packs but no {layout.DESCRIPTOR}",
                hint="it is a damaged repository: 'backupd repair' makes that anew, or choose an "
                "empty place",
            ) from None
        return None
    return parse_descriptor(stored, target.location)


def _refuse_mixture(
    installation: Installation, descriptors: Mapping[str, Descriptor | None], encrypted: bool
) -> None:
    for name, descriptor in descriptors.items():
        if descriptor is not None and descriptor.encrypted != encrypted:
            there = "encrypted" if descriptor.encrypted else "not encrypted"
            raise WrongKeyError(
                f"the repository at {installation.target(name).location} is {there}, "
                "and the configuration says otherwise",
                hint="change 'key:' in the configuration, or give the target an empty place",
            )


def _key_objects(target: Target) -> list[tuple[str, bytes]]:
    found = []
    for info in target.list(layout.KEYS):
        key_id = info.name.removeprefix(layout.KEYS).removesuffix(".json")
        found.append((key_id, target.get(info.name, layout.MAX_KEY)))
    return found


def _make_key_file(installation: Installation, exists: bool) -> Path | None:
    """Generate the configured key file where it is absent; its path when it was made.

    None is made where the environment has the secret, since it would open nothing.
    """
    path = installation.settings.key.file
    if path is None or path.exists() or environment_has_secret(installation.environment):
        return None
    if exists:
        raise WrongKeyError(
            f"{path} is absent, and the targets have a repository that another key opens",
            hint=f"write the recovery key that init printed into {path} (mode 0600)",
        )
    secret = keys.generate_secret(installation.random)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BackupdError(
            f"the key file {path} cannot be written: {error.strerror}",
            hint="choose another 'key: {file: ...}' or run as a user who may write there",
        ) from None
    return path
