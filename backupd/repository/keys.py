"""Key objects: the master key, wrapped by a key derived from a secret with Argon2id.

A secret is a passphrase, or a generated key of 256 random bits written in letters and digits
(the key file and the recovery key are such). What a key object claims is bounded before it is
obeyed, as the store may be hostile.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass

from blake3 import blake3

from backupd.codec.sealing import AesGcmSealer, RandomBytes, seal, unseal
from backupd.codec.secrets import MASTER_KEY_SIZE
from backupd.errors import DamagedError, WrongKeyError

_ASSOCIATED = b"backupd format 1: master key"
_GENERATED = re.compile(r"[A-Z2-7]{52}")
_MAX_MEMORY_KIB = 1 << 20
_MAX_ITERATIONS = 64


@dataclass(frozen=True, slots=True)
class Stretching:
    """Argon2id's cost (RFC 9106): memory in KiB, passes over it, lanes."""

    memory_kib: int
    iterations: int
    lanes: int


# RFC 9106 section 4, the second recommended option.
PASSPHRASE_STRETCHING = Stretching(memory_kib=64 * 1024, iterations=3, lanes=4)
# 256 random bits need no stretching; this keeps one code path, and `list` quick.
GENERATED_STRETCHING = Stretching(memory_kib=1024, iterations=1, lanes=1)


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What a key object says of itself without being opened."""

    key_id: str
    kind: str
    label: str
    created: str


def generate_secret(random: RandomBytes) -> str:
    """256 random bits as 13 groups of 4 letters and digits (RFC 4648 base32)."""
    letters = base64.b32encode(random(32)).decode().rstrip("=")
    return "-".join(letters[at : at + 4] for at in range(0, len(letters), 4))


def normalise(secret: str) -> str:
    """A secret as it is derived from: a generated one without marks and in capitals."""
    bare = re.sub(r"[\s-]", "", secret).upper()
    if _GENERATED.fullmatch(bare):
        return bare
    return secret.rstrip("\r\n")


def is_generated(secret: str) -> bool:
    """Whether the secret is a key file's or a recovery key, rather than a passphrase."""
    return _GENERATED.fullmatch(normalise(secret)) is not None


def _wrapping_key(secret: str, salt: bytes, cost: Stretching) -> bytes:
    # 26 ms of import that commands without a repository are spared.
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    derivation = Argon2id(
        salt=salt,
        length=32,
        iterations=cost.iterations,
        lanes=cost.lanes,
        memory_cost=cost.memory_kib,
    )
    return derivation.derive(normalise(secret).encode("utf-8", "surrogateescape"))


def wrap(
    master_key: bytes, secret: str, *, label: str, created: str, random: RandomBytes
) -> tuple[str, bytes]:
    """A key object for `secret`: its id (64 hex digits) and its stored bytes."""
    cost = GENERATED_STRETCHING if is_generated(secret) else PASSPHRASE_STRETCHING
    salt = random(16)
    sealer = AesGcmSealer(_wrapping_key(secret, salt, cost), random)
    value = {
        "kind": "generated" if is_generated(secret) else "passphrase",
        "label": label,
        "created": created,
        "derivation": "argon2id",
        "memory_kib": cost.memory_kib,
        "iterations": cost.iterations,
        "lanes": cost.lanes,
        "salt": salt.hex(),
        "master_key": bytes(seal(sealer, master_key, _ASSOCIATED)).hex(),
    }
    stored = json.dumps(value, indent=2).encode() + b"\n"
    return blake3(stored).hexdigest(), stored


def _parse(stored: bytes, key_id: str) -> tuple[KeyInfo, Stretching, bytes, bytes]:
    try:
        value = json.loads(stored)
        info = KeyInfo(key_id, str(value["kind"]), str(value["label"]), str(value["created"]))
        cost = Stretching(int(value["memory_kib"]), int(value["iterations"]), int(value["lanes"]))
        salt = bytes.fromhex(value["salt"])
        sealed = bytes.fromhex(value["master_key"])
        sound = (
            value["derivation"] == "argon2id"
            and 8 * cost.lanes <= cost.memory_kib <= _MAX_MEMORY_KIB
            and 1 <= cost.iterations <= _MAX_ITERATIONS
            and 1 <= cost.lanes <= 64
            and 8 <= len(salt) <= 64
        )
    except (ValueError, TypeError, KeyError, binascii.Error, OverflowError, RecursionError):
        sound = False
    if not sound or blake3(stored).hexdigest() != key_id:
        raise DamagedError(f"the key object {key_id} is damaged")
    return info, cost, salt, sealed


def describe(stored: bytes, key_id: str) -> KeyInfo:
    """What the key object says of itself. Raises `DamagedError`."""
    return _parse(stored, key_id)[0]


def unwrap(stored: bytes, key_id: str, secret: str) -> bytes:
    """The master key. Raises `WrongKeyError` when `secret` is not this key's."""
    _, cost, salt, sealed = _parse(stored, key_id)
    sealer = AesGcmSealer(_wrapping_key(secret, salt, cost), bytes)
    try:
        master_key = bytes(unseal(sealer, sealed, _ASSOCIATED))
    except DamagedError:
        raise WrongKeyError("the passphrase or key does not open the repository") from None
    if len(master_key) != MASTER_KEY_SIZE:
        raise DamagedError(f"the key object {key_id} is damaged")
    return master_key
