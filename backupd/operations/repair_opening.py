"""Opening a repository whose `repository.json` or key objects are damaged or gone.

The master key comes from a key object here, or from another target, and is believed when it opens
something that is stored here. Then what is missing is written anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from backupd.codec.chunking_parameters import ChunkingParameters
from backupd.codec.secrets import PUBLIC_MASTER_KEY
from backupd.errors import (
    BackupdError,
    DamagedError,
    ObjectMissingError,
    TargetError,
    WrongKeyError,
)
from backupd.operations.installation import Installation
from backupd.operations.repair_objects import ONE_BIT
from backupd.operations.reports import Mended
from backupd.repository import keys, layout
from backupd.repository.descriptor import Descriptor, parse_descriptor
from backupd.repository.one_bit import with_one_bit_right
from backupd.repository.opening import unlock
from backupd.repository.pack import read_table
from backupd.repository.repository import Repository
from backupd.targets.base import Target

_TRIED = 8  # objects of each kind that are tried with a key


def open_damaged(
    installation: Installation,
    name: str,
    sources: Sequence[str] | None,
    *,
    dry_run: bool,
    note: Callable[[str], None],
) -> list[Mended]:
    """Make the repository of a target one that opens; what was done, nothing where it does.

    Raises what opening raises where it cannot be mended.
    """
    try:
        installation.repository(name)
        return []
    except BackupdError as error:
        failure = error
    target = installation.target(name)
    # Raises where the target is away, which looks alike where it is the descriptor that is.
    if not any(True for _ in target.list(layout.PACKS)):
        raise failure  # an empty place, or a new repository: nothing to be mended
    donors = _donors(installation, name, sources, note)
    known_id = installation.identities.known(name, target.location)
    descriptor, mended = _descriptor(installation, target, donors, known_id)
    if mended is None and isinstance(failure, TargetError):
        raise failure  # another repository than was there before
    right_keys = _keys_with_one_bit_right(target)
    repository = _with_key(installation, target, descriptor, donors, right_keys)
    if repository is None:
        raise failure
    if mended is not None and not dry_run:
        target.put(layout.DESCRIPTOR, [descriptor.to_json()], warm=True)
    done = [mended] if mended is not None else []
    for key_id, stored in right_keys.items():
        key_name = f"{layout.KEYS}{key_id}.json"
        if not dry_run:
            target.put(key_name, [stored], warm=True)
        done.append(Mended(key_name, "replace", ONE_BIT, "is damaged"))
    if descriptor.encrypted and not right_keys and not _opens(target, installation):
        done.append(_give_key(installation, repository, donors, dry_run=dry_run))
    installation.drop(name)
    return done


def _donors(
    installation: Installation,
    name: str,
    sources: Sequence[str] | None,
    note: Callable[[str], None],
) -> list[Repository]:
    names = installation.settings.targets if sources is None else sources
    opened = []
    for other in installation.nearest_first(n for n in names if n != name):
        try:
            opened.append(installation.repository(other))
        except BackupdError as error:
            note(f"{other} is not asked: {error.message}")
    return opened


def _descriptor(
    installation: Installation,
    target: Target,
    donors: Sequence[Repository],
    known_id: str | None,
) -> tuple[Descriptor, Mended | None]:
    """What `repository.json` says or must have said, and what is to be told of it.

    Its id is the one that this box knows, else any.
    """
    why = "is missing"
    try:
        stored = target.get(layout.DESCRIPTOR, layout.MAX_DESCRIPTOR)
        try:
            return parse_descriptor(stored, target.location), None
        except DamagedError as error:
            why = error.message
            right = with_one_bit_right(stored, lambda tried: _parses(tried, target))
        if right is not None:
            found = parse_descriptor(right, target.location)
            return found, Mended(layout.DESCRIPTOR, "replace", ONE_BIT, why)
    except ObjectMissingError:
        pass
    encrypted = any(True for _ in target.list(layout.KEYS))
    chunking = ChunkingParameters()
    source = "what is stored beside it"
    if donors:
        encrypted, chunking = donors[0].descriptor.encrypted, donors[0].descriptor.chunking
        source = donors[0].name
    made = Descriptor(known_id or installation.random(16).hex(), encrypted, chunking)
    return made, Mended(layout.DESCRIPTOR, "replace", source, why)


def _parses(stored: bytes, target: Target) -> bool:
    try:
        parse_descriptor(stored, target.location)
    except DamagedError:
        return False
    return True


def _keys_with_one_bit_right(target: Target) -> dict[str, bytes]:
    """The right bytes of damaged key objects in which one bit was flipped, by the key's id."""
    found = {}
    for info in target.list(layout.KEYS):
        key_id = info.name.removeprefix(layout.KEYS).removesuffix(".json")
        try:
            stored = target.get(info.name, layout.MAX_KEY)
        except BackupdError:
            continue
        if not _describes(stored, key_id):
            right = with_one_bit_right(stored, partial(_describes, key_id=key_id))
            if right is not None:
                found[key_id] = right
    return found


def _describes(stored: bytes, key_id: str) -> bool:
    try:
        keys.describe(stored, key_id)
    except DamagedError:
        return False
    return True


def _with_key(
    installation: Installation,
    target: Target,
    descriptor: Descriptor,
    donors: Sequence[Repository],
    right_keys: Mapping[str, bytes],
) -> Repository | None:
    """The repository with a master key that opens what is stored there, or None."""
    candidates = []
    if not descriptor.encrypted:
        candidates.append(Repository(target, descriptor, PUBLIC_MASTER_KEY, installation.random))
    else:
        try:
            key = unlock(target, installation.secret())
            candidates.append(Repository(target, descriptor, key, installation.random))
        except (WrongKeyError, DamagedError):
            pass
        for key_id, stored in right_keys.items():
            try:
                key = keys.unwrap(stored, key_id, installation.secret())
            except WrongKeyError:
                continue
            candidates.append(Repository(target, descriptor, key, installation.random))
        candidates += [donor.sibling(target, descriptor) for donor in donors]
    return next((candidate for candidate in candidates if _opens_something(candidate)), None)


def _opens_something(repository: Repository) -> bool:
    """Whether the key opens an index object or a pack's table, of a few that are tried."""
    for number, info in enumerate(repository.target.list(layout.INDEX)):
        if number >= _TRIED:
            break
        try:
            repository.read_index_object(info.name)
            return True
        except (DamagedError, ObjectMissingError):
            continue
    for number, info in enumerate(repository.target.list(layout.PACKS)):
        pack_id = layout.pack_id_of(info.name)
        if number >= _TRIED or pack_id is None:
            break
        try:
            read_table(repository.target, pack_id, info.size_bytes, repository.sealer)
            return True
        except (DamagedError, ObjectMissingError):
            continue
    return False


def _opens(target: Target, installation: Installation) -> bool:
    try:
        unlock(target, installation.secret())
    except (WrongKeyError, DamagedError):
        return False
    return True


def _give_key(
    installation: Installation,
    repository: Repository,
    donors: Sequence[Repository],
    *,
    dry_run: bool,
) -> Mended:
    """Put a key object that the configured secret opens: another target's, else a new one."""
    secret = installation.secret()
    why = "no key object opens with the configured key"
    for donor in donors:
        for key_id in donor.key_ids():
            try:
                fits = donor.opens_with(key_id, secret)
                stored = donor.key_object(key_id)
            except BackupdError:
                continue
            if fits:
                name = f"{layout.KEYS}{key_id}.json"
                if not dry_run:
                    repository.target.put(name, [stored], warm=True)
                return Mended(name, "replace", donor.name, why)
    if not dry_run:
        created = datetime.fromtimestamp(installation.clock(), UTC).isoformat(timespec="seconds")
        repository.add_key(secret, label="configuration", created=created)
    return Mended(layout.KEYS, "replace", "the configured key", why)
