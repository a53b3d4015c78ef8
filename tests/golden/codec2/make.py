"""Makes golden payloads of planes: `python -m tests.golden.codec2.make FILE`.

They were made once and are never made anew: every later version must read them. Their zstd frames
state the size of their content, which those of `../codec1` do not, and numbers of one sign are
not rotated. For each name the archive holds a `.payload`, the `.chunk` that it must give, and the
`.base` of a difference.
"""

from __future__ import annotations

import sys

import numpy as np

from backupd.codec.planes import PlaneEncoder, payload_bound
from tests.support.checkpoints import bfloat16, trained, weights
from tests.support.deltas import encode_delta, ordered_delta

COUNT = 6_000


def main(file: str) -> None:
    """Encode one chunk in each way and write the archive."""
    values = weights(1, COUNT)
    later = trained(values, 3)
    planes = PlaneEncoder()
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = {}

    def keep(name: str, size: int, out: bytearray, chunk: bytes, base: bytes = b"") -> None:
        assert size
        parts = {"payload": bytes(out[:size]), "chunk": chunk, "base": base}
        for part, content in parts.items():
            arrays[f"{name}.{part}"] = np.frombuffer(content, np.uint8)

    for name, array in (("signed", values), ("one sign", np.square(values))):
        chunk = array.astype("<f4").tobytes()
        out = bytearray(payload_bound(len(chunk)))
        keep(name, planes.encode(chunk, 4, True, out), out, chunk)
    for name, width, encode, old, new in (
        ("difference", 4, encode_delta, values.astype("<f4"), later.astype("<f4")),
        ("ordered", 2, ordered_delta, bfloat16(values), bfloat16(later)),
    ):
        chunk, base = new.tobytes(), old.tobytes()
        out = bytearray(payload_bound(len(chunk)))
        keep(name, encode(planes, chunk, base, width, True, out), out, chunk, base)
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1])
