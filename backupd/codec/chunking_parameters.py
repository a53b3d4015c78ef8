"""The sizes by which content is cut, apart from the chunker so that reading needs no numpy."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ChunkingParameters:
    """Sizes in bytes. They stand in `repository.json`, so that every writer cuts alike.

    `hard_bits` and `easy_bits` are the bits that must be zero before and after `normal_size`.
    """

    min_size: int = 2 * MIB
    normal_size: int = 4 * MIB
    max_size: int = 8 * MIB
    hard_bits: int = 24
    easy_bits: int = 20

    def valid(self) -> bool:
        """Whether a chunker can work with these, and a pack hold what it cuts."""
        return (
            32 <= self.min_size <= self.normal_size <= self.max_size <= 16 * MIB
            and 8 <= self.easy_bits <= self.hard_bits <= 40
        )
