"""What the probe makes of bytes that nobody has described to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backupd.codec import plane_probe
from backupd.codec.plane_probe import LayoutProbe
from backupd.codec.planes import PlaneEncoder, payload_bound

RNG = np.random.default_rng(7)
WEIGHTS = RNG.standard_normal(100_000) * 0.02
BF16 = (WEIGHTS.astype("f4").view("u4") >> 16).astype("u2")


@pytest.mark.parametrize(
    ("data", "width"),
    [
        pytest.param(WEIGHTS.astype("f4"), 4, id="fp32"),
        pytest.param(WEIGHTS.astype("f2"), 2, id="fp16"),
        pytest.param(BF16, 2, id="bf16"),
    ],
)
@pytest.mark.parametrize("offset", range(8))
def test_numbers_are_found_at_every_offset(
    data: np.ndarray[tuple[int], np.dtype[np.generic]], width: int, offset: int
) -> None:
    chunk = RNG.bytes(offset) + data.tobytes()
    layout = LayoutProbe().probe(chunk)
    assert layout is not None
    assert (layout.width, layout.rotate, layout.phase) == (width, True, offset % width)
    out = bytearray(payload_bound(len(chunk)))
    written = PlaneEncoder().encode(chunk, width, True, out, phase=layout.phase)
    assert written > 0
    assert written / len(chunk) == pytest.approx(layout.estimate, abs=0.03)


@pytest.mark.parametrize("offset", range(8))
def test_fp64_is_split_without_a_rotation_at_every_offset(offset: int) -> None:
    chunk = RNG.bytes(offset) + WEIGHTS.tobytes()
    layout = LayoutProbe().probe(chunk)
    assert layout is not None
    assert (layout.width, layout.rotate) == (8, False)
    assert layout.estimate < 0.88


def test_noise_is_left_as_it_is() -> None:
    assert LayoutProbe().probe(RNG.bytes(1 << 20)) is None


@pytest.mark.parametrize(
    "chunk",
    [
        pytest.param(Path(plane_probe.__file__).read_bytes() * 20, id="text"),
        pytest.param(bytes(1 << 20), id="zeros"),
    ],
)
def test_text_and_zeros_are_for_plain_zstd(chunk: bytes) -> None:
    layout = LayoutProbe().probe(chunk)
    assert layout is not None
    assert layout.width == 1
    assert layout.estimate < 0.6


def test_integers_are_split_without_a_rotation() -> None:
    tokens = RNG.integers(0, 50_000, 100_000).astype("i8")
    layout = LayoutProbe().probe(tokens.tobytes())
    assert layout is not None
    assert (layout.width, layout.rotate) == (8, False)


def test_a_few_bytes_are_not_probed() -> None:
    assert LayoutProbe().probe(b"abc" * 20) is None
