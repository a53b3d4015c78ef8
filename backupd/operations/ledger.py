"""How many requests each target was asked, by day, and what that cost: a memory, and no truth.

One small JSON file in the state folder, which every process that used a target adds to when it
closes. Where it cannot be written nothing else is lost.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from backupd.config.settings import Prices, S3Target
from backupd.targets.counting import Counts

LEDGER_NAME = "requests.json"
KEPT_DAYS = 62
_MAX_BYTES = 4 << 20
# Amazon's list prices for requests to S3 Standard in us-east-1, as of May 2025; DELETE is free.
# https://aws.amazon.com/s3/pricing/
AMAZON = Prices(put=0.005, get=0.0004, list=0.005, currency="USD")
AMAZON_DATE = "May 2025"


@dataclass(frozen=True, slots=True)
class DayOfRequests:
    """What one target was asked on one day (UTC, `YYYY-MM-DD`), and the bytes that went over."""

    target: str
    day: str
    put: int = 0
    get: int = 0
    stat: int = 0
    list: int = 0
    delete: int = 0
    written_bytes: int = 0
    read_bytes: int = 0


def prices_of(target: S3Target) -> Prices | None:
    """What requests cost there: as configured, else Amazon's list prices for Amazon's store."""
    if target.prices is not None:
        return target.prices
    return None if target.endpoint_url else AMAZON


def cost(day: DayOfRequests, prices: Prices) -> float:
    """What the requests of a day cost. A HEAD costs what a GET does; a DELETE costs nothing."""
    reads = (day.get + day.stat) * prices.get
    return (day.put * prices.put + reads + day.list * prices.list) / 1000


def read_ledger(state_dir: Path) -> list[DayOfRequests]:
    """What is kept, oldest day first; nothing where there is nothing or it cannot be read."""
    try:
        with (state_dir / LEDGER_NAME).open("rb") as file:
            return _decode(file.read(_MAX_BYTES))
    except OSError:
        return []


def add_to_ledger(state_dir: Path, traffic: Mapping[str, Counts], now: float) -> None:
    """Add what was counted, by target, to the day that `now` (seconds since the epoch) is in."""
    if not any(counts.requests for counts in traffic.values()):
        return
    moment = datetime.fromtimestamp(now, UTC)
    today, oldest = f"{moment:%Y-%m-%d}", f"{moment - timedelta(days=KEPT_DAYS):%Y-%m-%d}"
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(state_dir / f"{LEDGER_NAME}.lock"):
            kept = {
                (entry.target, entry.day): entry
                for entry in read_ledger(state_dir)
                if entry.day >= oldest
            }
            for target, counts in traffic.items():
                key = (target, today)
                kept[key] = _sum(kept.get(key, DayOfRequests(*key)), counts)
            _write(state_dir / LEDGER_NAME, list(kept.values()))
    except OSError:
        return  # who may not write there, such as a guest who lists, is not to fail for it


def _sum(entry: DayOfRequests, counts: Counts) -> DayOfRequests:
    asked = counts.requests
    return DayOfRequests(
        entry.target,
        entry.day,
        put=entry.put + asked.get("put", 0),
        get=entry.get + asked.get("get", 0),
        stat=entry.stat + asked.get("stat", 0),
        list=entry.list + asked.get("list", 0),
        delete=entry.delete + asked.get("delete", 0),
        written_bytes=entry.written_bytes + counts.bytes_written,
        read_bytes=entry.read_bytes + counts.bytes_read,
    )


def _decode(data: bytes) -> list[DayOfRequests]:
    try:
        entries: Any = json.loads(data)["days"]
        found = [
            DayOfRequests(
                str(entry["target"]),
                str(entry["day"]),
                **{name: max(0, int(entry[name])) for name in _NUMBERS},
            )
            for entry in entries
        ]
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return []
    return sorted(found, key=lambda entry: (entry.day, entry.target))


_NUMBERS = ("put", "get", "stat", "list", "delete", "written_bytes", "read_bytes")


def _write(path: Path, entries: list[DayOfRequests]) -> None:
    temporary = path.with_name(f"{path.name}.new")
    text = json.dumps({"days": [asdict(entry) for entry in entries]}, indent=1)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    # Not synced: a day's count that a crash takes is worth no wait.
    temporary.replace(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
