"""Small chunks encoded many at a time are blobs like any others."""

from __future__ import annotations

import random

from backupd.codec.blob import RAW_HEADER, BlobDecoder, BlobEncoder, Codec, framed, squeezed


def chunks() -> list[bytes]:
    rng = random.Random(3)
    sizes = [1, 2, 100, 4000, 16_383, 16_384, 16_385, 40_000, 65_535]
    noise = [rng.randbytes(size) for size in sizes]
    text = [(b"%d, " % rng.randrange(50) * size)[:size] for size in sizes]
    return [chunk for pair in zip(noise, text, strict=True) for chunk in pair]


def test_each_comes_back_whichever_form_is_smaller() -> None:
    encoder, decoder = BlobEncoder(), BlobDecoder()
    frames = [memoryview(RAW_HEADER + chunk) for chunk in chunks()]
    codecs = []
    for chunk, frame, payload in zip(chunks(), frames, encoder.squeeze(frames), strict=True):
        encoded = squeezed(frame, payload)
        assert decoder.decode(encoded.data, len(chunk)) == chunk
        assert len(encoded.data) <= len(chunk) + len(RAW_HEADER)
        codecs.append(encoded.codec)
    assert codecs.count(Codec.RAW) >= 9 and codecs.count(Codec.ZSTD) >= 6


def test_they_are_the_bytes_that_one_at_a_time_gives() -> None:
    encoder = BlobEncoder()
    frames = [memoryview(RAW_HEADER + chunk) for chunk in chunks()]
    for chunk, frame, payload in zip(chunks(), frames, encoder.squeeze(frames), strict=True):
        alone = encoder.encode(framed(chunk))
        together = squeezed(frame, payload)
        assert (bytes(alone.data), alone.codec) == (bytes(together.data), together.codec)


def test_none_at_all_is_nothing() -> None:
    assert BlobEncoder().squeeze([]) == []
