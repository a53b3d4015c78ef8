"""The keys of a configuration's repositories: listed, added, removed, shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from backupd.codec.secrets import Secrets
from backupd.errors import (
    BackupdError,
    DamagedError,
    NotFoundError,
    PartialError,
    TargetReadOnlyError,
    TargetUnreachableError,
    UsageError,
)
from backupd.operations.installation import Installation
from backupd.repository import keys


@dataclass(frozen=True, slots=True)
class ListedKey:
    """One key object; `targets` names where it stands, `problem` is empty where it is whole."""

    info: keys.KeyInfo
    targets: tuple[str, ...]
    problem: str = ""


def list_keys(
    installation: Installation, *, failed: dict[str, BackupdError] | None = None
) -> list[ListedKey]:
    """The keys of all targets that can be reached, merged; the others go into `failed`."""
    found: dict[str, ListedKey] = {}
    for repository in installation.repositories(failed=failed):
        for key_id in repository.key_ids():
            try:
                info, problem = repository.describe_key(key_id), ""
            except DamagedError as error:
                info, problem = keys.KeyInfo(key_id, "damaged", "", ""), error.message
            before = found.get(key_id)
            targets = (*before.targets, repository.name) if before else (repository.name,)
            found[key_id] = ListedKey(info, targets, problem)
    return list(found.values())


def add_key(installation: Installation, secret: str, *, label: str) -> Mapping[str, str]:
    """Let one more secret open every target; the new key's id by target.

    Raises `UsageError` for an empty secret, `TargetError` when a target cannot be reached: a key
    that opens only some targets would be found out on the worst of days.
    """
    if not secret:
        raise UsageError("an empty passphrase protects nothing", hint="give one of some length")
    created = datetime.fromtimestamp(installation.clock(), UTC).isoformat(timespec="seconds")
    repositories = [installation.repository(name) for name in installation.settings.targets]
    added = {}
    # The same object everywhere, so that a damaged one can be had again from another target.
    wrapped: list[tuple[Secrets, str, bytes]] = []
    for repository in repositories:
        if not repository.descriptor.encrypted:
            raise UsageError(f"{repository.name} is not encrypted and has no keys")
        fit = next((w for w in wrapped if w[0] == repository.secrets), None)
        if fit is None:
            key_id, stored = repository.wrap_key(secret, label=label, created=created)
            wrapped.append(fit := (repository.secrets, key_id, stored))
        repository.put_key_object(fit[1], fit[2])
        added[repository.name] = fit[1]
    return added


def new_recovery_key(installation: Installation) -> str:
    """A generated secret, for `add_key`."""
    return keys.generate_secret(installation.random)


def refuse_taken_host(installation: Installation, host: str) -> None:
    """Raise `UsageError` where a key bears the host's name: each host has one, to be removed by
    that name."""
    if any(key.info.label == host for key in list_keys(installation)):
        raise UsageError(
            f"there is a key of host {host!r} already",
            hint=f"remove it first, if that host is to have another: backupd key remove {host}",
        )


def remove_key(installation: Installation, key_id: str) -> tuple[str, ...]:
    """Remove a key by the beginning of its id, or its label; the targets it was removed from.

    Raises `NotFoundError`, `UsageError` where several are meant or where it is the one in use,
    `TargetError` where it is the last, and `PartialError` where it opens some targets still.
    """
    failed: dict[str, BackupdError] = {}
    listed = list_keys(installation, failed=failed)
    meant = [k for k in listed if k.info.key_id.startswith(key_id) or k.info.label == key_id]
    if not meant:
        known = ", ".join(f"{k.info.key_id[:8]} ({k.info.label})" for k in listed)
        raise NotFoundError(f"there is no key {key_id!r}", hint=f"there are: {known}")
    # A secret that was added to several targets has a key object of its own on each.
    if len({(key.info.label, key.info.created) for key in meant}) > 1:
        raise UsageError(f"{key_id!r} means {len(meant)} keys", hint="give more of the id")
    secret = installation.secret()
    removed = []
    for key in meant:
        for target in key.targets:
            repository = installation.repository(target)
            if not key.problem and repository.opens_with(key.info.key_id, secret):
                raise UsageError(
                    f"key {key.info.key_id[:8]} is the one the configuration uses",
                    hint="configure another key first, then remove this one",
                )
            try:
                repository.remove_key(key.info.key_id)
            except (TargetUnreachableError, TargetReadOnlyError) as error:
                failed[target] = error
            else:
                removed.append(target)
    if failed:
        why = "; ".join(f"{target}: {error.message}" for target, error in failed.items())
        raise PartialError(
            f"key {key_id!r} is removed from {', '.join(removed) or 'no target'}, and opens what"
            f" could not be changed as before: {why}",
            hint="run it again when the target is there, or where the credentials may delete",
        )
    return tuple(removed)


def export_key(installation: Installation) -> str:
    """The secret that opens the repositories, to be kept away from the box.

    Raises `WrongKeyError` when it opens none of them, so that nobody keeps a useless one.
    """
    installation.repositories()
    return installation.secret()
