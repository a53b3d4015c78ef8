"""The last snapshot's tree blobs in the state folder, so that an unchanged model costs no read.

Each file is named by the blob's id and is believed only when its content has that id; deleting
any or all of them costs nothing but time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import zstandard

from backupd.codec.blob import MAX_CHUNK
from backupd.operations.installation import Installation
from backupd.repository.repository import Repository


class TreeCache:
    """One model's tree blobs. `folder` is None where there is no state folder to keep them in.

    Failing to keep something is no error, as it is only a matter of speed.
    """

    def __init__(self, folder: Path | None, repository: Repository) -> None:
        self._folder = folder
        self._blob_id = repository.secrets.blob_id

    @classmethod
    def of_model(cls, installation: Installation, repository: Repository, model: str) -> TreeCache:
        """The cache of this host's model."""
        if installation.standalone:
            return cls(None, repository)
        folder = repository.secrets.model_folder(installation.settings.host, model)
        return cls(installation.settings.state_dir / "cache" / "trees" / folder, repository)

    def get(self, tree_id: bytes) -> bytes | None:
        """The tree blob, or None where it is not kept or not what it was."""
        if self._folder is None:
            return None
        try:
            packed = (self._folder / tree_id.hex()).read_bytes()
            plain = zstandard.ZstdDecompressor().decompress(packed, max_output_size=MAX_CHUNK)
        except (OSError, zstandard.ZstdError):
            return None
        return plain if self._blob_id(plain) == tree_id else None

    def put(self, tree_id: bytes, plain: bytes) -> None:
        """Keep a tree blob."""
        if self._folder is None:
            return
        path = self._folder / tree_id.hex()
        temporary = path.with_suffix(".tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary.write_bytes(zstandard.ZstdCompressor(level=1).compress(plain))
            temporary.replace(path)
        except OSError:
            return

    def keep_only(self, tree_ids: Iterable[bytes]) -> None:
        """Let go of all other trees of the model."""
        if self._folder is None:
            return
        wanted = {tree_id.hex() for tree_id in tree_ids}
        try:
            for name in os.listdir(self._folder):
                if name not in wanted:
                    (self._folder / name).unlink(missing_ok=True)
        except OSError:
            return
