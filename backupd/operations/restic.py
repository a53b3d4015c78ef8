"""A restic repository, read by restic's own binary and never written to."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backupd.errors import BackupdError, StoppedError, UsageError
from backupd.operations.past import PastState, in_order_of_time, parse_moment

_HINT = "restic reads its password from RESTIC_PASSWORD, RESTIC_PASSWORD_FILE or --password-file"
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class ResticRepository:
    """Where a repository is and how it opens; `environment` is handed to restic as it is."""

    location: str
    environment: Mapping[str, str]
    password_file: str = ""

    def states(
        self, *, path: str, host: str, tags: Sequence[str], default_path: str
    ) -> tuple[list[PastState], str]:
        """The snapshots that hold a folder, oldest first, and that folder.

        Without `path` it is the model's own where a snapshot has it, else the only one that there
        is. Raises `BackupdError`, `UsageError` where it must be named.
        """
        arguments = ["snapshots", "--json"]
        arguments += ["--host", host] if host else []
        for tag in tags:
            arguments += ["--tag", tag]
        try:
            listed = json.loads(self._ask(arguments))
            snapshots = [_Snapshot.of(value) for value in listed or ()]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise BackupdError(f"restic's list of {self.location} is not understood") from None
        wanted = path.rstrip("/") or _only_path(snapshots, default_path)
        holding = [
            snapshot
            for snapshot in snapshots
            if any(f"{wanted}/".startswith(f"{each.rstrip('/')}/") for each in snapshot.paths)
        ]
        if not holding:
            raise BackupdError(
                f"no snapshot of {self.location} holds {wanted}",
                hint="there are: " + (", ".join(sorted(_paths(snapshots))[:5]) or "none"),
            )
        states = [
            PastState(f"restic:{each.id[:16]}", each.time, labels=each.labels) for each in holding
        ]
        return in_order_of_time(states), wanted

    def restore(self, state: PastState, path: str, to: Path, stop: threading.Event) -> Path:
        """Restore the folder of one snapshot below `to`. Raises `BackupdError`, `StoppedError`."""
        snapshot = state.source.removeprefix("restic:")
        arguments = ["restore", snapshot, "--target", str(to), "--include", _escaped(path)]
        self._run(arguments, stop)
        found = Path(f"{to}{path}")
        if not found.is_dir():
            raise BackupdError(
                f"{path} of the restic snapshot {snapshot} is no folder",
                hint="name another folder with --path",
            )
        return found

    def _command(self, arguments: Sequence[str]) -> list[str]:
        binary = shutil.which("restic", path=self.environment.get("PATH"))
        if binary is None:
            raise BackupdError(
                "restic is not installed", hint="install it, as by apt-get install restic"
            )
        own = ["--password-file", self.password_file] if self.password_file else []
        # Without a lock: nothing is written to what is only read.
        return [binary, "-r", self.location, "--no-lock", *own, *arguments]

    def _ask(self, arguments: Sequence[str]) -> bytes:
        try:
            done = subprocess.run(
                self._command(arguments),
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        except OSError as error:
            raise BackupdError(f"restic cannot be run: {error.strerror}") from None
        if done.returncode:
            raise _failed(done.stderr)
        return done.stdout

    def _run(self, arguments: Sequence[str], stop: threading.Event) -> None:
        with subprocess.Popen(
            self._command(arguments),
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    _, complaint = process.communicate(timeout=_POLL_SECONDS)
                    break
                if stop.is_set():
                    process.terminate()
                    process.communicate()
                    raise StoppedError(
                        "stopped; what was imported is kept, and a later run goes on"
                    )
        if process.returncode:
            raise _failed(complaint)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    id: str
    time: float
    paths: tuple[str, ...]
    labels: Mapping[str, str]

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> _Snapshot:
        labels = {}
        for tag in value.get("tags") or ():
            key, _, text = str(tag).partition("=")
            if key and "@" not in key and not any(map(str.isspace, key)):
                labels[key] = text
        return cls(
            id=str(value["id"]),
            time=parse_moment(str(value["time"])),
            paths=tuple(str(path) for path in value["paths"]),
            labels=labels,
        )


def _paths(snapshots: Sequence[_Snapshot]) -> set[str]:
    return {path for snapshot in snapshots for path in snapshot.paths}


def _only_path(snapshots: Sequence[_Snapshot], default_path: str) -> str:
    known = _paths(snapshots)
    if default_path in known or not known:
        return default_path
    if len(known) > 1:
        raise UsageError(
            f"the restic repository holds several folders: {', '.join(sorted(known)[:5])}",
            hint="say which is the model's: --path FOLDER",
        )
    return next(iter(known)).rstrip("/")


def _escaped(path: str) -> str:
    """A path as a pattern of restic that means just it (filepath.Match of Go)."""
    return "".join(f"\\{char}" if char in "*?[]\\" else char for char in path)


def _failed(complaint: bytes) -> BackupdError:
    lines = complaint.decode("utf-8", "replace").strip().splitlines()
    told = next(
        (line for line in lines if "Fatal" in line), lines[-1] if lines else "it said nothing"
    )
    return BackupdError(f"restic failed: {told[:300]}", hint=_HINT)
