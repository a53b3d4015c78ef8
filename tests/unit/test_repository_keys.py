"""Keys: which secret opens what, and what a hostile key object may ask for."""

from __future__ import annotations

import json
import os
import time

import pytest
from blake3 import blake3

from backupd.codec.chunking_parameters import ChunkingParameters
from backupd.errors import DamagedError, TargetError, WrongKeyError
from backupd.repository import keys
from backupd.repository.descriptor import Descriptor
from backupd.repository.layout import DESCRIPTOR, KEYS
from backupd.repository.opening import open_repository
from backupd.targets.memory import MemoryTarget

MASTER = bytes(range(32))
CREATED = "2026-11-23T12:00:00+00:00"


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A passphrase is stretched as little as a generated key: a tenth of a second each is a lot."""
    monkeypatch.setattr(keys, "PASSPHRASE_STRETCHING", keys.GENERATED_STRETCHING)


def wrapped(secret: str) -> tuple[str, bytes]:
    return keys.wrap(MASTER, secret, label="test", created=CREATED, random=os.urandom)


def renamed(stored: bytes, **changes: object) -> tuple[bytes, str]:
    """A key object with other members, under the name that its bytes then have."""
    changed = json.dumps({**json.loads(stored), **changes}).encode()
    return changed, blake3(changed).hexdigest()


@pytest.mark.parametrize(
    "secret",
    ["correct horse", "pässwörd \udcff", keys.generate_secret(lambda size: bytes(range(size)))],
)
def test_the_secret_that_wrapped_the_master_key_unwraps_it(secret: str) -> None:
    key_id, stored = wrapped(secret)
    assert keys.unwrap(stored, key_id, secret) == MASTER
    assert MASTER.hex() not in stored.decode()


def test_a_generated_secret_is_read_in_any_writing_and_a_passphrase_to_the_letter() -> None:
    secret = keys.generate_secret(os.urandom)
    key_id, stored = wrapped(secret)
    for writing in (secret.lower(), secret.replace("-", ""), f" {secret.replace('-', ' ')}\n"):
        assert keys.unwrap(stored, key_id, writing) == MASTER
    assert keys.describe(stored, key_id).kind == "generated"
    key_id, stored = wrapped("Pass phrase")
    assert keys.describe(stored, key_id).kind == "passphrase"
    assert keys.unwrap(stored, key_id, "Pass phrase\n") == MASTER
    for other in ("pass phrase", "Passphrase", "Pass phrase "):
        with pytest.raises(WrongKeyError):
            keys.unwrap(stored, key_id, other)


def test_each_generated_secret_has_256_bits() -> None:
    assert len({keys.generate_secret(os.urandom) for _ in range(50)}) == 50
    assert len(keys.generate_secret(os.urandom).replace("-", "")) * 5 >= 256


@pytest.mark.parametrize(
    "changes",
    [
        {"memory_kib": 1 << 30},  # a terabyte
        {"memory_kib": float("inf")},
        {"memory_kib": 10**400},
        {"memory_kib": -1},
        {"memory_kib": 7},
        {"iterations": 1 << 40},
        {"iterations": 0},
        {"lanes": 1 << 20},
        {"lanes": 0},
        {"salt": "00"},
        {"salt": "00" * 65},
        {"salt": 7},
        {"derivation": "pbkdf2"},
        {"master_key": "xx"},
        {"master_key": None},
    ],
)
def test_what_a_hostile_key_object_asks_for_is_refused_before_it_is_tried(
    changes: dict[str, object],
) -> None:
    stored, key_id = renamed(wrapped("secret")[1], **changes)
    begun = time.process_time()
    with pytest.raises(DamagedError):
        keys.unwrap(stored, key_id, "secret")
    assert time.process_time() - begun < 1


def test_a_passphrase_is_stretched_as_rfc_9106_recommends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    key = json.loads(wrapped("passphrase")[1])
    assert (key["memory_kib"], key["iterations"], key["lanes"]) == (65536, 3, 4)


def test_a_key_object_under_another_name_is_damaged() -> None:
    _, stored = wrapped("secret")
    with pytest.raises(DamagedError):
        keys.unwrap(stored, "0" * 64, "secret")


def test_a_shortened_master_key_is_not_taken() -> None:
    _, stored = wrapped("secret")
    sealed = json.loads(stored)["master_key"]
    shorter, key_id = renamed(stored, master_key=sealed[:40])
    with pytest.raises((DamagedError, WrongKeyError)):
        keys.unwrap(shorter, key_id, "secret")


def repository(*secrets: str) -> MemoryTarget:
    target = MemoryTarget()
    for secret in secrets:
        key_id, stored = wrapped(secret)
        target.put(f"{KEYS}{key_id}.json", [stored])
    target.put(DESCRIPTOR, [Descriptor("0" * 32, True, ChunkingParameters()).to_json()])
    return target


def test_any_of_several_keys_opens_and_a_wrong_one_does_not() -> None:
    generated = keys.generate_secret(os.urandom)
    target = repository("first", generated)
    for secret in ("first", generated):
        opened = open_repository(target, lambda secret=secret: secret, os.urandom)
        assert len(opened.key_ids()) == 2
    for wrong in ("second", keys.generate_secret(os.urandom), ""):
        with pytest.raises(WrongKeyError):
            open_repository(target, lambda wrong=wrong: wrong, os.urandom)
    with pytest.raises(WrongKeyError):
        open_repository(target, None, os.urandom)


def test_a_damaged_key_object_hides_no_other() -> None:
    target = repository("secret")
    target.put(f"{KEYS}{'0' * 64}.json", [b"not a key"])
    open_repository(target, lambda: "secret", os.urandom)
    with pytest.raises(WrongKeyError, match="damaged"):
        open_repository(target, lambda: "other", os.urandom)


def test_where_every_key_object_is_damaged_that_is_said() -> None:
    target = repository()
    target.put(f"{KEYS}{'0' * 64}.json", [b"not a key"])
    with pytest.raises(DamagedError, match="every key object"):
        open_repository(target, lambda: "secret", os.urandom)


def test_a_key_that_was_removed_opens_nothing_and_the_last_one_stays() -> None:
    target = repository("first", "second")
    opened = open_repository(target, lambda: "first", os.urandom)
    second = next(key for key in opened.key_ids() if opened.opens_with(key, "second"))
    opened.remove_key(second)
    with pytest.raises(WrongKeyError):
        open_repository(target, lambda: "second", os.urandom)
    with pytest.raises(TargetError, match="last key"):
        opened.remove_key(opened.key_ids()[0])
    open_repository(target, lambda: "first", os.urandom)


def test_unencrypted_repositories_ask_for_no_secret() -> None:
    target = MemoryTarget()
    target.put(DESCRIPTOR, [Descriptor("0" * 32, False, ChunkingParameters()).to_json()])
    open_repository(target, None, os.urandom)
