"""Sealing: authenticated encryption of stored bytes, and its form without encryption.

A sealed run is `nonce (12) | body | tag (16)`. With encryption the body is AES-256-GCM
(NIST SP 800-38D) under a random nonce; without it the body is plain and the tag is the first 16
bytes of a keyed BLAKE3 over the associated data's length (8 bytes, little-endian), the associated
data, the nonce and the body, so that damage is found either way and lengths agree.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Protocol, TypeAlias

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from backupd.errors import DamagedError

Buffer: TypeAlias = bytes | bytearray | memoryview
RandomBytes: TypeAlias = Callable[[int], bytes]

NONCE_SIZE = 12
TAG_SIZE = 16
OVERHEAD = NONCE_SIZE + TAG_SIZE


class Sealer(Protocol):
    """Seals and opens; one object may serve several threads."""

    def nonces(self, count: int) -> list[bytes]:
        """Fresh nonces, each for one `seal_into`, drawn at once: a draw is a system call."""
        ...

    def seal_into(
        self, plain: Buffer, associated: bytes, out: memoryview, nonce: bytes = b""
    ) -> int:
        """Seal `plain` into the front of `out`; the number of bytes written.

        Without a nonce one is drawn.
        """
        ...

    def open_into(self, sealed: Buffer, associated: bytes, out: memoryview) -> int:
        """Open into the front of `out`; the plain length. Raises `DamagedError`."""
        ...


def _cut(drawn: bytes) -> list[bytes]:
    return [drawn[at : at + NONCE_SIZE] for at in range(0, len(drawn), NONCE_SIZE)]


class AesGcmSealer:
    """AES-256-GCM under one 32-byte key, nonces drawn from `random`."""

    def __init__(self, key: bytes, random: RandomBytes) -> None:
        self._cipher = AESGCM(key)
        self._random = random

    def nonces(self, count: int) -> list[bytes]:
        """See `Sealer`."""
        return _cut(self._random(count * NONCE_SIZE))

    def seal_into(
        self, plain: Buffer, associated: bytes, out: memoryview, nonce: bytes = b""
    ) -> int:
        """See `Sealer`."""
        nonce = nonce or self._random(NONCE_SIZE)
        end = OVERHEAD + len(plain)
        out[:NONCE_SIZE] = nonce
        self._cipher.encrypt_into(nonce, plain, associated, out[NONCE_SIZE:end])
        return end

    def open_into(self, sealed: Buffer, associated: bytes, out: memoryview) -> int:
        """See `Sealer`."""
        view = memoryview(sealed)
        size = len(view) - OVERHEAD
        if size < 0 or size > len(out):
            raise DamagedError("sealed bytes have an impossible length")
        try:
            self._cipher.decrypt_into(view[:NONCE_SIZE], view[NONCE_SIZE:], associated, out[:size])
        except InvalidTag:
            raise DamagedError("sealed bytes do not open: they are damaged or misplaced") from None
        return size


class PlainSealer:
    """The form without encryption: the same lengths, a checksum in place of the tag."""

    def __init__(self, key: bytes, random: RandomBytes) -> None:
        self._key = key
        self._random = random

    def _tag(self, nonce_and_body: Buffer, associated: bytes) -> bytes:
        hasher = blake3(len(associated).to_bytes(8, "little") + associated, key=self._key)
        return hasher.update(nonce_and_body).digest(TAG_SIZE)

    def nonces(self, count: int) -> list[bytes]:
        """See `Sealer`."""
        return _cut(self._random(count * NONCE_SIZE))

    def seal_into(
        self, plain: Buffer, associated: bytes, out: memoryview, nonce: bytes = b""
    ) -> int:
        """See `Sealer`."""
        end = NONCE_SIZE + len(plain)
        # A nonce here too: equal content must not give equal packs, as one may be due to go.
        out[:NONCE_SIZE] = nonce or self._random(NONCE_SIZE)
        out[NONCE_SIZE:end] = plain
        out[end : end + TAG_SIZE] = self._tag(out[:end], associated)
        return end + TAG_SIZE

    def open_into(self, sealed: Buffer, associated: bytes, out: memoryview) -> int:
        """See `Sealer`."""
        view = memoryview(sealed)
        size = len(view) - OVERHEAD
        if size < 0 or size > len(out):
            raise DamagedError("stored bytes have an impossible length")
        end = NONCE_SIZE + size
        if not hmac.compare_digest(self._tag(view[:end], associated), bytes(view[end:])):
            raise DamagedError("stored bytes do not match their checksum")
        out[:size] = view[NONCE_SIZE:end]
        return size


def seal(sealer: Sealer, plain: Buffer, associated: bytes) -> bytearray:
    """Seal a small object into a fresh buffer."""
    out = bytearray(len(plain) + OVERHEAD)
    sealer.seal_into(plain, associated, memoryview(out))
    return out


def unseal(sealer: Sealer, sealed: Buffer, associated: bytes) -> bytearray:
    """Open a small object into a fresh buffer. Raises `DamagedError`."""
    out = bytearray(max(0, len(sealed) - OVERHEAD))
    sealer.open_into(sealed, associated, memoryview(out))
    return out
