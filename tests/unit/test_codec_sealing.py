"""Sealing binds bytes to a key and a place, in both forms."""

from __future__ import annotations

import os

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from backupd.codec.sealing import NONCE_SIZE, OVERHEAD, Sealer, seal, unseal
from backupd.codec.secrets import PUBLIC_MASTER_KEY, derive
from backupd.errors import DamagedError

MASTER = bytes(range(32))


@pytest.fixture(params=[True, False], ids=["encrypted", "plain"])
def sealer(request: pytest.FixtureRequest) -> Sealer:
    return derive(MASTER, encrypted=request.param).sealer(os.urandom)


@pytest.mark.parametrize("size", [0, 1, 27, 28, 70_000])
def test_what_was_sealed_opens_and_is_28_bytes_longer(sealer: Sealer, size: int) -> None:
    plain = os.urandom(size)
    sealed = seal(sealer, plain, b"place")
    assert len(sealed) == size + OVERHEAD == size + 28
    assert unseal(sealer, sealed, b"place") == plain


def test_every_flipped_bit_is_noticed(sealer: Sealer) -> None:
    sealed = seal(sealer, b"some plain bytes", b"place")
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedError):
            unseal(sealer, changed, b"place")


def test_every_cut_is_noticed(sealer: Sealer) -> None:
    sealed = seal(sealer, b"some plain bytes", b"place")
    for size in range(len(sealed)):
        with pytest.raises(DamagedError):
            unseal(sealer, sealed[:size], b"place")


@pytest.mark.parametrize("other", [b"", b"plac", b"place\0", b"placf", b"lace"])
def test_what_is_sealed_for_one_place_opens_for_no_other(sealer: Sealer, other: bytes) -> None:
    with pytest.raises(DamagedError):
        unseal(sealer, seal(sealer, b"ce and more", b"place"), other)


def test_associated_data_and_body_cannot_be_shifted_into_each_other(sealer: Sealer) -> None:
    # The nonce comes between the two in the tag of the plain form, after the first's length.
    sealed = bytes(seal(sealer, b"body", b"place"))
    with pytest.raises(DamagedError):
        unseal(sealer, sealed[1:], b"place" + sealed[:1])


def test_another_key_opens_nothing() -> None:
    for encrypted in (True, False):
        sealed = seal(derive(MASTER, encrypted=encrypted).sealer(os.urandom), b"x", b"")
        other = derive(bytes(32), encrypted=encrypted).sealer(os.urandom)
        with pytest.raises(DamagedError):
            unseal(other, sealed, b"")


def test_a_buffer_that_is_too_small_is_refused_before_it_is_written(sealer: Sealer) -> None:
    sealed = seal(sealer, b"x" * 100, b"")
    out = bytearray(99)
    with pytest.raises(DamagedError):
        sealer.open_into(sealed, b"", memoryview(out))
    assert out == bytes(99)


def test_equal_bytes_never_seal_to_equal_bytes(sealer: Sealer) -> None:
    sealed = {bytes(seal(sealer, b"same", b"place")) for _ in range(2000)}
    assert len({item[:NONCE_SIZE] for item in sealed}) == 2000


def test_nonces_drawn_at_once_are_as_good_as_one_by_one(sealer: Sealer) -> None:
    nonces = [*sealer.nonces(1000), *sealer.nonces(1)]
    assert len(set(nonces)) == 1001 and {len(nonce) for nonce in nonces} == {NONCE_SIZE}
    assert sealer.nonces(0) == []
    out = bytearray(5 + OVERHEAD)
    assert sealer.seal_into(b"plain", b"place", memoryview(out), nonces[0]) == len(out)
    assert out[:NONCE_SIZE] == nonces[0] and unseal(sealer, out, b"place") == b"plain"


def test_the_bytes_are_those_of_the_specification() -> None:
    """docs/format.md, read by hand."""
    key = blake3(MASTER, derive_key_context="backupd format 1: sealing").digest()
    sealed = bytes(seal(derive(MASTER, encrypted=True).sealer(os.urandom), b"body", b"place"))
    assert AESGCM(key).decrypt(sealed[:12], sealed[12:], b"place") == b"body"
    sealed = bytes(seal(derive(MASTER, encrypted=False).sealer(os.urandom), b"body", b"place"))
    tagged = (5).to_bytes(8, "little") + b"place" + sealed[:12] + b"body"
    assert sealed[12:] == b"body" + blake3(tagged, key=key).digest(16)


def test_each_purpose_has_a_key_of_its_own_and_none_is_shown() -> None:
    secrets = derive(MASTER, encrypted=True)
    derived = [secrets.sealing_key, secrets.id_key, secrets.model_key, secrets.chunking_key]
    assert len({*derived, MASTER}) == 5
    assert not [key for key in derived if repr(key) in repr(secrets) or key.hex() in repr(secrets)]


def test_ids_and_folders_are_keyed_and_agree_between_targets_of_one_key() -> None:
    one, other = derive(MASTER, encrypted=True), derive(PUBLIC_MASTER_KEY, encrypted=True)
    assert one.blob_id(b"chunk") == derive(MASTER, encrypted=False).blob_id(b"chunk")
    assert len({one.blob_id(b"chunk"), other.blob_id(b"chunk"), blake3(b"chunk").digest()}) == 3
    assert one.model_folder("box", "m") != other.model_folder("box", "m")
    assert one.model_folder("box", "m") != one.model_folder("boxm", "")
    key = blake3(MASTER, derive_key_context="backupd format 1: model folder").digest()
    assert one.model_folder("box", "m") == blake3(b"box\0m", key=key).hexdigest(16)
