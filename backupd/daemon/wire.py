"""What goes over the control socket: one JSON object a line, bounded, and the values in it.

Shared by `control`, which answers, and `client`, which asks: only the standard library, as the
command line imports it on every `backupd list`.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from backupd.errors import EXIT_DONE
from backupd.operations.reports import SnapshotInfo, SnapshotReport, TargetResult
from backupd.repository.danger import Danger

SOCKET_NAME = "control.sock"
TRAINER_SOCKET_NAME = "trainer.sock"
MAX_REQUEST_BYTES = 256 * 1024
MAX_REPLY_BYTES = 256 << 20
# A daemon that is alive sends a line this often while a client waits for a job.
HEARTBEAT_SECONDS = 1.0
# unix(7): sun_path has 108 bytes, one for the end.
_MAX_ADDRESS = 107
_READ = 64 * 1024


@dataclass(frozen=True, slots=True)
class SnapshotResult:
    """How a snapshot of one model ended. `report` is None where it failed, which `error` tells.

    `state` is the word of `queue.State` (`pending` where nobody waited for the end).
    """

    model: str
    state: str
    report: SnapshotReport | None = None
    error: str = ""
    hint: str = ""
    exit_code: int = EXIT_DONE


class Lines:
    """Reads lines of a socket; the socket's timeout is that of each wait."""

    def __init__(self, connection: socket.socket, longest: int) -> None:
        self._connection = connection
        self._longest = longest
        self._rest = bytearray()

    def read(self) -> dict[str, Any] | None:
        """The next object; None at the end. Raises `ValueError` for anything else, `OSError`."""
        searched = 0
        while (end := self._rest.find(b"\n", searched)) < 0:
            searched = len(self._rest)
            if searched > self._longest:
                raise ValueError(f"a line is longer than {self._longest} bytes")
            more = self._connection.recv(_READ)
            if not more:
                if self._rest:
                    raise ValueError("the last line is not whole")
                return None
            self._rest += more
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError("a line is not JSON") from None
        if not isinstance(value, dict):
            raise ValueError("a line is no JSON object")
        return value


def encode_line(value: Mapping[str, object]) -> bytes:
    """One line. Names that are not UTF-8 travel as escaped surrogates."""
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


@contextmanager
def socket_address(state_dir: Path, name: str = SOCKET_NAME) -> Iterator[str]:
    """An address of a socket in a folder that fits, however long the path of the folder is."""
    path = str(state_dir / name)
    if len(os.fsencode(path)) <= _MAX_ADDRESS:
        yield path
        return
    folder = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{name}"
    finally:
        os.close(folder)


def encode_info(info: SnapshotInfo) -> dict[str, Any]:
    """A listed snapshot as JSON takes it."""
    # `replace` first: asdict copies mappings deeply, and those it is given may not be plain.
    plain = replace(
        info, labels=dict(info.labels), metrics=dict(info.metrics), code=dict(info.code)
    )
    return asdict(plain)


def decode_info(value: Mapping[str, Any]) -> SnapshotInfo:
    """The way back. Raises `TypeError` or `KeyError` where it is none."""
    lists = {name: tuple(value[name]) for name in ("incomplete", "skipped", "targets")}
    findings = tuple(Danger(**found) for found in value["findings"])
    return SnapshotInfo(**{**value, **lists, "findings": findings})


def encode_result(result: SnapshotResult) -> dict[str, Any]:
    """A snapshot's end as JSON takes it."""
    report = result.report
    document = asdict(replace(result, report=None))
    if report is not None:
        document["report"] = {
            "model": report.model,
            "unchanged": report.unchanged,
            "snapshot": encode_info(report.snapshot) if report.snapshot else None,
            "targets": [asdict(target) for target in report.targets],
            "notes": list(report.notes),
            "retry": report.retry,
            "incomplete": list(report.incomplete),
        }
    return document


def decode_result(value: Mapping[str, Any]) -> SnapshotResult:
    """The way back. Raises `TypeError` or `KeyError` where it is none."""
    report = value["report"]
    if report is not None:
        report = SnapshotReport(
            model=report["model"],
            unchanged=report["unchanged"],
            snapshot=decode_info(report["snapshot"]) if report["snapshot"] else None,
            targets=tuple(TargetResult(**target) for target in report["targets"]),
            notes=tuple(report["notes"]),
            retry=report["retry"],
            incomplete=tuple(report.get("incomplete", ())),
        )
    return SnapshotResult(**{**value, "report": report})
