"""What the fuzzer calls: a parser, bytes that it takes, and what it may do with any others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """One parser as the fuzzer sees it.

    `check` gives bytes to the parser and asserts what it promises of its answer; it may raise
    `refusals` and nothing else. Of `seeds` and `words` other cases are made. One case, of at most
    `most_bytes`, may take `seconds` of the processor and `memory_bytes` more than any before it.
    """

    check: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    refusals: tuple[type[Exception], ...] = ()
    words: tuple[bytes, ...] = ()
    most_bytes: int = 4096
    seconds: float = 2.0
    memory_bytes: int = 64 << 20
