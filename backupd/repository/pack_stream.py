"""One thread's open pack: blobs go in, full packs go to the writer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from backupd.codec.blob import HEADER_SIZE, Base, BlobEncoder, Numbers, framed, squeezed
from backupd.codec.sealing import OVERHEAD
from backupd.errors import DamagedError
from backupd.repository.pack import PackBuilder
from backupd.repository.records import BlobKind, BlobRecord
from backupd.repository.repository import Repository


class PackSink(Protocol):
    """What a stream needs of its writer."""

    repository: Repository

    def claim(self, blob_id: bytes) -> bool:
        """Whether the caller is to store this blob."""
        ...

    def take_builder(self, *, warm: bool) -> PackBuilder:
        """An empty builder; see `PackBuilder` for `warm`."""
        ...

    def submit(self, builder: PackBuilder) -> None:
        """Put a filled pack; the builder comes back by itself."""
        ...

    def give_back(self, builder: PackBuilder) -> None:
        """Return a builder with nothing in it."""
        ...


class PackStream:
    """One thread's open packs: blobs go in, full packs go to the writer.

    Data goes into one, what says where data belongs (trees, chunk lists, layouts) into another.
    """

    def __init__(self, writer: PackSink) -> None:
        self._writer = writer
        self._builders: dict[bool, PackBuilder] = {}
        self.encoder = BlobEncoder()
        self._scratch = memoryview(bytearray(0))
        self.added_bytes = 0
        self.sealed_bytes = 0

    def store(
        self,
        blob_id: bytes,
        kind: BlobKind,
        frame: memoryview,
        chunk_size: int,
        *,
        numbers: Numbers | None = None,
        base: Base | None = None,
    ) -> bytes:
        """Encode and seal a claimed chunk, given as a frame; the id of the base it stands on.

        See `BlobEncoder.encode` for the frame, `numbers` and the base.
        """
        encoded = self.encoder.encode(frame, numbers, base)
        builder = self._room_for(len(encoded.data) + OVERHEAD, warm=kind is not BlobKind.DATA)
        self.sealed_bytes += builder.add(blob_id, kind, chunk_size, encoded)
        self.added_bytes += chunk_size
        return encoded.base_id

    def store_squeezed(self, blobs: Sequence[tuple[bytes, memoryview, bytes]]) -> None:
        """Seal small chunks of data that an encoder squeezed: their ids, frames and payloads.

        See `BlobEncoder.squeeze`.
        """
        nonces = self._writer.repository.sealer.nonces(len(blobs))
        for (blob_id, frame, payload), nonce in zip(blobs, nonces, strict=True):
            encoded = squeezed(frame, payload)
            size = len(frame) - HEADER_SIZE
            builder = self._room_for(len(encoded.data) + OVERHEAD, warm=False)
            self.sealed_bytes += builder.add(blob_id, BlobKind.DATA, size, encoded, nonce)
            self.added_bytes += size

    def copy(self, record: BlobRecord, sealed: memoryview) -> None:
        """Take over a claimed blob that another repository sealed with the same key.

        Raises `DamagedError` where it does not open: a damaged blob is not handed on.
        """
        if len(self._scratch) < record.sealed_size:
            self._scratch = memoryview(bytearray(record.sealed_size))
        try:
            self._writer.repository.sealer.open_into(sealed, record.blob_id, self._scratch)
        except DamagedError as error:
            raise DamagedError(f"blob {record.blob_id.hex()} is damaged: {error}") from None
        builder = self._room_for(record.sealed_size, warm=record.kind != BlobKind.DATA)
        builder.space(record.sealed_size)[:] = sealed
        builder.add_copied(record)
        self.sealed_bytes += record.sealed_size

    def _room_for(self, sealed_size: int, *, warm: bool) -> PackBuilder:
        builder = self._builders.get(warm)
        if builder is not None and (builder.full or not builder.has_room(sealed_size)):
            self._writer.submit(self._builders.pop(warm))
            builder = None
        if builder is None:
            builder = self._builders[warm] = self._writer.take_builder(warm=warm)
        return builder

    def store_bytes(self, kind: BlobKind, plain: bytes) -> bytes:
        """Store a small run of bytes unless it is there; its id."""
        blob_id = self._writer.repository.secrets.blob_id(plain)
        if self._writer.claim(blob_id):
            self.store(blob_id, kind, framed(plain), len(plain))
        return blob_id

    def close(self) -> None:
        """Hand over what the open packs hold."""
        while self._builders:
            builder = self._builders.popitem()[1]
            if builder.count:
                self._writer.submit(builder)
            else:
                self._writer.give_back(builder)
