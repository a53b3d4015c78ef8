"""What requests to stores came to, as `status` shows it: by day and target, with their price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backupd.cli import output
from backupd.cli.app import App
from backupd.cli.formatting import Column, size
from backupd.config.settings import Prices, S3Target, Settings
from backupd.operations.ledger import (
    AMAZON,
    AMAZON_DATE,
    DayOfRequests,
    cost,
    prices_of,
    read_ledger,
)

_COLUMNS = (
    Column("REQUESTS", shrink=6),
    Column("DAY"),
    Column("PUT", right=True),
    Column("GET", right=True),
    Column("LIST", right=True),
    Column("SENT", right=True, drop=1),
    Column("READ", right=True, drop=2),
    Column("COST", right=True),
)
_SHOWN_DAYS = 3


def request_documents(settings: Settings) -> list[dict[str, Any]]:
    """The days of each S3 target that is configured, newest first, for `--json`."""
    return [_document(entry, prices) for entry, prices in _entries(settings)]


def say_requests(app: App, settings: Settings) -> None:
    """The last days as a table, and what they were priced by."""
    entries = _entries(settings)
    days = sorted({entry.day for entry, _ in entries}, reverse=True)[:_SHOWN_DAYS]
    shown = [(entry, prices) for entry, prices in entries if entry.day in days]
    if not shown:
        return
    output.say(app)
    output.table(app, _COLUMNS, [_row(entry, prices) for entry, prices in shown])
    if any(prices is AMAZON for _, prices in shown):
        output.note(app, f"costs by Amazon's list prices of {AMAZON_DATE}; `prices` changes them")


def _entries(settings: Settings) -> list[tuple[DayOfRequests, Prices | None]]:
    stores = {
        name: prices_of(target)
        for name, target in settings.targets.items()
        if isinstance(target, S3Target)
    }
    if not stores:
        return []
    kept = [entry for entry in read_ledger(settings.state_dir) if entry.target in stores]
    return [(entry, stores[entry.target]) for entry in reversed(kept)]


def _row(entry: DayOfRequests, prices: Prices | None) -> tuple[str, ...]:
    return (
        entry.target,
        entry.day,
        f"{entry.put:,}",
        f"{entry.get + entry.stat:,}",
        f"{entry.list:,}",
        size(entry.written_bytes),
        size(entry.read_bytes),
        f"{cost(entry, prices):,.4f} {prices.currency}" if prices else "",
    )


def _document(entry: DayOfRequests, prices: Prices | None) -> dict[str, Any]:
    priced: Mapping[str, Any] = {"cost": None, "currency": None, "prices": None}
    if prices is not None:
        source = f"Amazon, {AMAZON_DATE}" if prices is AMAZON else "configuration"
        priced = {
            "cost": round(cost(entry, prices), 6),
            "currency": prices.currency,
            "prices": source,
        }
    return {
        "target": entry.target,
        "day": entry.day,
        "put": entry.put,
        "get": entry.get,
        "head": entry.stat,
        "list": entry.list,
        "delete": entry.delete,
        "written_bytes": entry.written_bytes,
        "read_bytes": entry.read_bytes,
        **priced,
    }
