"""Damaged containers in number: as many cases a file as `BACKUPD_TORTURE_CASES` says.

A mutator with a seed of its own rather than hypothesis, which takes ten times as long a case.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from backupd.capture.containers import identify

GOLDEN = Path(__file__).parents[1] / "golden" / "containers"
FILES = [
    "model.safetensors",
    "checkpoint.pt",
    "odd.pt",
    "module.pt",
    "rank.distcp",
    "arrays.npz",
    "plain.npy",
    "model.gguf",
    "model.keras",
]
CASES = int(os.environ.get("BACKUPD_TORTURE_CASES", "1000"))
EXTREMES = [
    number.to_bytes(width, "little")
    for width in (1, 2, 4, 8)
    for number in (0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1)
]
OPCODES = [
    bytes([code])
    for code in (
        *b"(.01FIJKLMNPQRSTUVXabcde}ghijlopqrstu)]",
        *range(0x80, 0x97),
    )
]


def damage(data: bytes, places: list[int], chance: random.Random) -> bytes:
    """Return `data` changed in one to six ways, at `places` of structure more often than not."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        if not changed:
            break
        place = chance.choice(places) if chance.random() < 0.8 else chance.randrange(len(changed))
        place = min(place, len(changed) - 1)
        match chance.randrange(7):
            case 0:
                changed[place] ^= 1 << chance.randrange(8)
            case 1 | 2:
                piece = chance.choice(EXTREMES)
                changed[place : place + len(piece)] = piece
            case 3:
                changed[place : place + 1] = chance.choice(OPCODES)
            case 4:
                changed[place:place] = changed[chance.randrange(len(changed)) :][:100]
            case 5:
                del changed[place : place + chance.randint(1, 40)]
            case 6:
                changed[place] = (changed[place] + chance.randint(-3, 3)) % 256
    return bytes(changed)


def structure(data: bytes, size: int) -> list[int]:
    """Return the places that a look at `data` reads: those are what a parser believes."""
    places: set[int] = set()

    def read_at(offset: int, length: int) -> bytes:
        places.update(range(offset, offset + length))
        return data[offset : offset + length]

    identify(read_at, size, b"x")
    return sorted(places)


@pytest.mark.torture
@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", FILES)
def test_no_damage_makes_a_parser_raise_hang_or_leave_the_file(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    places = structure(data, len(data))
    for seed in range(CASES):
        changed = damage(data, places, random.Random(f"{name} {seed}"))
        started = time.process_time()
        try:
            layout = identify(lambda at, length, d=changed: d[at : at + length], len(changed), b"x")
        except Exception as error:
            pytest.fail(f"seed {seed} of {name} raised {error!r}")
        assert time.process_time() - started < 2, f"seed {seed} of {name} is slow"
        end = 0
        for tensor in layout.tensors if layout else ():
            assert tensor.offset >= end, f"seed {seed} of {name}"
            assert tensor.size_bytes > 0, f"seed {seed} of {name}"
            end = tensor.offset + tensor.size_bytes
        assert end <= len(changed), f"seed {seed} of {name}"
