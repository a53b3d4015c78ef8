"""Storage classes: which of them cannot be read at once, what thawing takes and what it costs.

The table is Amazon's. Other stores may have classes of the same names and other ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# docs.aws.amazon.com/AmazonS3/latest/userguide/storage-class-intro.html. GLACIER_IR is read at
# once, whatever its name says.
ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
TIERS = ("expedited", "standard", "bulk")
PRICES_OF = "us-east-1, November 2025"


@dataclass(frozen=True, slots=True)
class Thawing:
    """What one tier takes for one class: hours at most, dollars a GB (10^9 bytes) and a request."""

    hours: float
    dollars_per_gb: float
    dollars_per_request: float


# docs.aws.amazon.com/AmazonS3/latest/userguide/restoring-objects-retrieval-options.html (hours)
# and aws.amazon.com/s3/pricing (dollars), as of `PRICES_OF`.
_THAWING: Mapping[tuple[str, str], Thawing] = {
    ("GLACIER", "expedited"): Thawing(5 / 60, 0.03, 0.01),
    ("GLACIER", "standard"): Thawing(5, 0.01, 0.00005),
    ("GLACIER", "bulk"): Thawing(12, 0.0, 0.0),
    ("DEEP_ARCHIVE", "standard"): Thawing(12, 0.02, 0.0001),
    ("DEEP_ARCHIVE", "bulk"): Thawing(48, 0.0025, 0.000025),
}


def thawing(storage_class: str, tier: str) -> Thawing | None:
    """What thawing takes, or None where the class has no such tier."""
    return _THAWING.get((storage_class, tier))


def is_cold(found: Mapping[str, Any]) -> bool:
    """Whether an answer to HEAD, or an entry of a listing, is of an object that cannot be read.

    A thawed one says `ongoing-request="false"` in the header that HEAD repeats (HeadObject).
    """
    if found.get("StorageClass") not in ARCHIVES and not found.get("ArchiveStatus"):
        return False
    return 'ongoing-request="false"' not in str(found.get("Restore", ""))
