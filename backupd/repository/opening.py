"""Opening a repository: the descriptor, then the key, by whichever key object the secret opens."""

from __future__ import annotations

from collections.abc import Callable

from backupd.codec.sealing import RandomBytes
from backupd.codec.secrets import PUBLIC_MASTER_KEY
from backupd.errors import DamagedError, ObjectMissingError, TargetError, WrongKeyError
from backupd.repository import keys, layout
from backupd.repository.descriptor import parse_descriptor
from backupd.repository.index import IndexCache
from backupd.repository.repository import Repository
from backupd.repository.small_objects import ObjectCache, SmallObjects, present
from backupd.targets.base import Target


class AbsentRepositoryError(TargetError):
    """There is no repository at the target's place."""


def open_repository(
    target: Target,
    secret: Callable[[], str] | None,
    random: RandomBytes,
    *,
    index_cache: Callable[[str], IndexCache | None] = lambda repository_id: None,
    object_cache: Callable[[str], ObjectCache | None] = lambda repository_id: None,
    gets_at_once: int = 1,
) -> Repository:
    """Open what `target` holds.

    `secret` gives the passphrase or generated key and is asked only where the repository is
    encrypted; None where there is none to ask for. `index_cache` and `object_cache` give the caches
    of a repository's index and small objects by the repository's id, where there are any; for
    `gets_at_once` see `SmallObjects`. Raises `TargetError` where there is no repository,
    `WrongKeyError` and `DamagedError`.
    """
    try:
        stored = target.get(layout.DESCRIPTOR, layout.MAX_DESCRIPTOR)
    except ObjectMissingError:
        raise AbsentRepositoryError(
            f"there is no repository at {target.location}",
            hint="make one with 'backupd init', or correct the target's place",
        ) from None
    descriptor = parse_descriptor(stored, target.location)
    small_objects = SmallObjects(target, object_cache(descriptor.repository_id), gets_at_once)
    if not descriptor.encrypted:
        master_key = PUBLIC_MASTER_KEY
    elif secret is None:
        raise WrongKeyError(
            f"the repository at {target.location} is encrypted and no key was given",
            hint="set 'key:' in the configuration, or BACKUPD_KEY_FILE, BACKUPD_PASSPHRASE_FILE "
            "or BACKUPD_PASSPHRASE",
        )
    else:
        master_key = unlock(target, secret(), small_objects)
    return Repository(
        target,
        descriptor,
        master_key,
        random,
        index_cache=index_cache(descriptor.repository_id),
        small_objects=small_objects,
    )


def unlock(target: Target, secret: str, small_objects: SmallObjects | None = None) -> bytes:
    """The master key, by whichever key object the secret opens."""
    small_objects = small_objects or SmallObjects(target)
    stored = []
    damaged = []
    kind = "generated" if keys.is_generated(secret) else "passphrase"
    infos = list(target.list(layout.KEYS))
    got = small_objects.get_all(layout.KEYS, infos, layout.MAX_KEY)
    for info, found in zip(infos, got, strict=True):
        key_id = info.name.removeprefix(layout.KEYS).removesuffix(".json")
        try:
            text = present(found)
            stored.append((keys.describe(text, key_id).kind != kind, key_id, text))
        except (DamagedError, ObjectMissingError):
            damaged.append(info.name)
    # The likely ones first, as each passphrase costs a tenth of a second to try.
    for _, key_id, text in sorted(stored):
        try:
            return keys.unwrap(text, key_id, secret)
        except WrongKeyError:
            continue
    if damaged and not stored:
        raise DamagedError(
            f"every key object of {target.location} is damaged ({', '.join(damaged)})",
            hint="'backupd repair' takes them from another target of the same configuration",
        )
    also = f"; {', '.join(damaged)} is damaged and could not be tried" if damaged else ""
    raise WrongKeyError(
        f"the passphrase or key opens none of the keys of {target.location}{also}",
        hint="give the passphrase, the key file's content or the recovery key that init printed",
    )
