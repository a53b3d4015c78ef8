"""The master key and all that is derived from it; nothing here is ever stored plain.

Each purpose has a key of its own, by BLAKE3's key derivation mode with a fixed context string.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from blake3 import blake3

from backupd.codec.sealing import AesGcmSealer, PlainSealer, RandomBytes, Sealer

MASTER_KEY_SIZE = 32

# With `encryption: none` the same derivations run from this, so that ids agree between targets.
PUBLIC_MASTER_KEY = bytes(MASTER_KEY_SIZE)

_CONTEXT = "backupd format 1: "


@dataclass(frozen=True, slots=True)
class Secrets:
    """The keys of one repository; `repr` shows none of them."""

    sealing_key: bytes = field(repr=False)
    id_key: bytes = field(repr=False)
    model_key: bytes = field(repr=False)
    chunking_key: bytes = field(repr=False)
    encrypted: bool

    def blob_id(self, plain: bytes | bytearray | memoryview) -> bytes:
        """The 32-byte id of a chunk: the keyed BLAKE3 of its plain bytes."""
        return blake3(plain, key=self.id_key).digest()

    def model_folder(self, host: str, model: str) -> str:
        """The folder name of a model's snapshots: a keyed hash of both names, 32 hex digits."""
        names = host.encode() + b"\0" + model.encode()
        return blake3(names, key=self.model_key).hexdigest(16)

    def sealer(self, random: RandomBytes) -> Sealer:
        """What seals and opens with these keys; nonces are drawn from `random`."""
        if self.encrypted:
            return AesGcmSealer(self.sealing_key, random)
        return PlainSealer(self.sealing_key, random)


def derive(master_key: bytes, *, encrypted: bool) -> Secrets:
    """All keys of a repository from its 32-byte master key."""

    def one(purpose: str) -> bytes:
        return blake3(master_key, derive_key_context=_CONTEXT + purpose).digest()

    return Secrets(
        sealing_key=one("sealing"),
        id_key=one("blob id"),
        model_key=one("model folder"),
        chunking_key=one("chunking"),
        encrypted=encrypted,
    )
