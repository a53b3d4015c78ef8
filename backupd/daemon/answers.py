"""What the daemon answers on its control socket: `status`, `snapshot`, `list`.

Requests come from whoever may open the socket, so every part of them is checked here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from backupd.daemon.control import Peer
from backupd.daemon.engine import Engine
from backupd.daemon.queue import Job, Kind, State, Ticket
from backupd.daemon.wire import HEARTBEAT_SECONDS, SnapshotResult, encode_info, encode_result
from backupd.errors import NotFoundError, UsageError
from backupd.policy.schemes import SCHEMES

_MAX_TOKEN = 64

Request = Mapping[str, Any]
Reply = Mapping[str, Any]


class Answers:
    """From a request to its replies, the last of which has `ok`."""

    def __init__(self, engine: Engine, reload: Callable[[], Mapping[str, object]]) -> None:
        """`reload` gives the time and error of the last one."""
        self._engine = engine
        self._reload = reload

    def for_trainer(self, request: Request, peer: Peer) -> Iterator[Reply]:
        """What a training program may ask for of its own models; see `control.Answer`.

        A model is that of the user whose folder it is. Raises `BackupdError`.
        """
        if request.get("op") not in ("snapshot", "hold", "release"):
            raise UsageError("a training program may ask for snapshots alone", hint="use sudo")
        for name in _names(request, "models") or [_text(request, "model")]:
            model = self._engine.settings.models.get(name)
            if model is None or not _owns(peer.user, model.path):
                raise NotFoundError(
                    f"no model {name!r} of this user is configured",
                    hint="the owner of a model's folder may ask for it, and root",
                )
        yield from self(request, peer)

    def __call__(self, request: Request, peer: Peer) -> Iterator[Reply]:
        """See `control.Answer`. Raises `BackupdError` for what cannot be answered."""
        match request.get("op"):
            case "hold":
                self._hold(request, peer)
                yield {"ok": True}
            case "release":
                self._engine.holds.release(_text(request, "token")[:_MAX_TOKEN], pid=peer.pid)
                yield {"ok": True}
            case "status":
                yield {"ok": True, **self.status()}
            case "list":
                yield {"ok": True, "snapshots": self._list(request)}
            case "snapshot":
                yield from self._snapshot(request)
            case other:
                raise UsageError(
                    f"the daemon cannot do {other!r}", hint="it may be older than this command"
                )

    def status(self) -> dict[str, object]:
        """The status document; see `daemon.status`."""
        return {"reload": dict(self._reload()), **self._engine.status()}

    def _hold(self, request: Request, peer: Peer) -> None:
        model = _text(request, "model")
        if model not in self._engine.settings.models:
            raise NotFoundError(f"no model {model!r} is configured")
        seconds = request.get("seconds")
        if not isinstance(seconds, int | float) or not math.isfinite(seconds):
            raise UsageError("seconds must be a number")
        token = _text(request, "token")[:_MAX_TOKEN]
        self._engine.holds.hold(model, token, pid=peer.pid, seconds=float(seconds))

    def _list(self, request: Request) -> list[dict[str, Any]]:
        found = self._engine.list_snapshots(
            model=_text(request, "model"),
            host=_text(request, "host"),
            labels=_texts(request, "labels"),
            targets=_names(request, "targets"),
        )
        return [encode_info(info) for info in found]

    def _snapshot(self, request: Request) -> Iterator[Reply]:
        configured = self._engine.settings.models
        wanted = list(dict.fromkeys(_names(request, "models") or configured))
        labels, metrics = _texts(request, "labels"), _numbers(request, "metrics")
        scheme = _text(request, "scheme")
        if scheme and scheme not in SCHEMES:
            raise UsageError(
                f"there is no scheme {scheme!r}", hint=f"the schemes are {', '.join(SCHEMES)}"
            )
        step, epoch = _step(request), _epoch(request)
        for name in wanted:
            if name not in configured:
                from backupd.policy.nearest import nearest_names

                known = ", ".join(nearest_names(name, configured) or configured)
                raise NotFoundError(
                    f"no model {name!r} is configured", hint=f"configured models: {known}"
                )
        tickets = [
            self._engine.queue.submit(
                Job(
                    Kind.SNAPSHOT,
                    name,
                    labels=tuple(sorted(labels.items())),
                    metrics=tuple(sorted(metrics.items())),
                    scheme=scheme,
                    step=step,
                    epoch=epoch,
                    asked=True,
                    now=request.get("now") is True,
                    newest=request.get("newest") is True,
                    reason="asked for",
                )
            )
            for name in wanted
        ]
        if request.get("wait"):
            yield from _follow(tickets)
        yield {"ok": True, "results": [encode_result(_result(ticket)) for ticket in tickets]}


def _follow(tickets: list[Ticket]) -> Iterator[Reply]:
    """Events of jobs until all have ended, about one a second for each that has not."""
    told = {id(ticket): 0 for ticket in tickets}
    waiting = list(tickets)
    while waiting:
        waiting[0].ended.wait(HEARTBEAT_SECONDS)
        for ticket in waiting:
            model = ticket.job.name
            notes = ticket.progress.notes()
            for note in notes[told[id(ticket)] :]:
                yield {"event": "note", "model": model, "message": note}
            told[id(ticket)] = len(notes)
            if not ticket.ended.is_set():
                yield {
                    "event": "progress",
                    "model": model,
                    "state": str(ticket.state),
                    **ticket.progress.seen(),
                }
        waiting = [ticket for ticket in waiting if not ticket.ended.is_set()]


def _result(ticket: Ticket) -> SnapshotResult:
    outcome = ticket.outcome
    if outcome is None:
        return SnapshotResult(ticket.job.name, str(State.PENDING))
    return SnapshotResult(
        model=ticket.job.name,
        state=str(outcome.state),
        report=outcome.report,
        error=outcome.error,
        hint=outcome.hint,
        exit_code=outcome.exit_code,
    )


def _owns(user: int, folder: Path) -> bool:
    """Whether a user may speak for the model in `folder`."""
    try:
        return user in (0, os.geteuid(), os.stat(folder).st_uid)
    except OSError:
        return False


def _text(request: Request, name: str) -> str:
    value = request.get(name) or ""
    if isinstance(value, str):
        return value
    raise UsageError(f"{name} must be a text")


def _names(request: Request, name: str) -> list[str] | None:
    value = request.get(name)
    if value is None or (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        return value
    raise UsageError(f"{name} must be a list of names")


def _texts(request: Request, name: str) -> dict[str, str]:
    value = request.get(name) or {}
    if isinstance(value, dict) and all(isinstance(one, str) for one in value.values()):
        return value
    raise UsageError(f"{name} must map names to texts")


def _numbers(request: Request, name: str) -> dict[str, float]:
    value = request.get(name) or {}
    if isinstance(value, dict) and all(type(one) in (int, float) for one in value.values()):
        return {key: float(number) for key, number in value.items()}
    raise UsageError(f"{name} must map names to numbers")


def _step(request: Request) -> int | None:
    value = request.get("step")
    if value is None or (type(value) is int and 0 <= value < 1 << 63):
        return value
    raise UsageError("step must be a whole number, not below 0")


def _epoch(request: Request) -> float | None:
    value = request.get("epoch")
    if value is None:
        return None
    if type(value) in (int, float) and math.isfinite(value):
        return float(value)
    raise UsageError("epoch must be a number")
