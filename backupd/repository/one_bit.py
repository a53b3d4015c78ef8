"""Putting one flipped bit right in a small object whose bytes can be told to be right."""

from __future__ import annotations

from collections.abc import Callable

# Each bit is tried: of so many bytes that is some tenths of a second.
_MOST_BYTES = 4096


def with_one_bit_right(stored: bytes, is_right: Callable[[bytes], bool]) -> bytes | None:
    """The bytes with the one bit flipped that makes them right, or None where there is none.

    `is_right` compares a hash or opens a seal, so a wrong answer is as unlikely as a forgery.
    """
    if len(stored) > _MOST_BYTES:
        return None
    tried = bytearray(stored)
    for at in range(len(tried)):
        for bit in range(8):
            tried[at] ^= 1 << bit
            if is_right(bytes(tried)):
                return bytes(tried)
            tried[at] ^= 1 << bit
    return None
