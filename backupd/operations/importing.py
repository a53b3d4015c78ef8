"""Taking a model's past in: one snapshot a state, in their order, each with its own time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType

from backupd.config.settings import ModelSettings
from backupd.errors import BackupdError, StoppedError
from backupd.operations.catalog import read_catalog
from backupd.operations.installation import Installation
from backupd.operations.past import LABEL, PastState
from backupd.operations.progress import Progress
from backupd.operations.reports import SnapshotReport
from backupd.operations.restic import ResticRepository
from backupd.operations.snapshot import Past, take_snapshot
from backupd.operations.swapping import remove

_PREFIX = ".backupd-import-"

Opened = Callable[[PastState], AbstractContextManager[Path]]
"""Gives the folder of a state for as long as it is read."""


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What is to be imported, in order, and what is there from an earlier run."""

    states: tuple[PastState, ...]
    done: int


def plan_import(
    installation: Installation, model: ModelSettings, states: Sequence[PastState]
) -> ImportPlan:
    """Which states are still to be taken in.

    Raises `BackupdError` where the model has a snapshot newer than one of them: a past cannot
    come behind the present, as the version with the highest number is the latest.
    """
    host = installation.settings.host
    catalog = read_catalog(installation, model=model.name, host=host, targets=tuple(model.targets))
    known = {snapshot.info.labels.get(LABEL) for snapshot in catalog.snapshots}
    left = [state for state in states if state.source not in known]
    newest = max((snapshot.info.time for snapshot in catalog.snapshots), default=None)
    if newest is not None and left and left[0].time < newest:
        late = next(s.info for s in catalog.snapshots if s.info.time == newest)
        raise BackupdError(
            f"{left[0].source} is of {_day(left[0].time)}, and {late.name} of {_day(newest)} is"
            " there already",
            hint="import the past before the first snapshot, or into a model of its own",
        )
    return ImportPlan(tuple(left), len(states) - len(left))


def import_states(
    installation: Installation,
    model: ModelSettings,
    plan: ImportPlan,
    opened: Opened,
    *,
    progress: Progress,
    stop: threading.Event,
) -> Iterator[tuple[PastState, SnapshotReport]]:
    """Take the states in, one after another; each is told when it is stored.

    Raises what `take_snapshot` does, `StoppedError`; what was stored is passed over next time.
    """
    for state in plan.states:
        if stop.is_set():
            raise StoppedError("stopped; what was imported is kept, and a later run goes on")
        with opened(state) as folder:
            # It has been quiet for long, whatever restoring it did to the times of its inodes.
            source = replace(model, path=folder, code=None, settle_seconds=0.0)
            report = take_snapshot(
                installation,
                source,
                labels={**state.labels, LABEL: state.source},
                step=state.step,
                known_version=max(state.version - 1, 0),
                past=Past(state.time, bytes(model.path)),
                progress=progress,
                stop=stop,
            )
        yield state, report


class Scratch:
    """A folder of our own for what has to lie in one while it is read; a context manager.

    One import of a model has it at a time, so what an interrupted one left can go.
    """

    def __init__(self, place: Path) -> None:
        """`place` is made where absent. Raises `BackupdError` where another import has it."""
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._place = place
        self._lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise BackupdError(
                f"another import works in {place}", hint="wait for it to end, or use --scratch"
            ) from None
        self._clear()

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clear()
        os.close(self._lock)

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """An empty folder that is gone afterwards."""
        made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._place))
        try:
            yield made
        finally:
            remove(str(made))

    def _clear(self) -> None:
        for left in self._place.glob(f"{_PREFIX}*"):
            remove(str(left))


@contextlib.contextmanager
def folder_of(state: PastState, scratch: Scratch, *, called: str) -> Iterator[Path]:
    """The folder of a state that is on this box. A single file gets one around it, in which it
    is `called` so, with its own ending: the same file in every version."""
    place = state.place
    assert place is not None
    if place.is_dir():
        yield place
        return
    with scratch.folder() as folder:
        ending = "".join(place.suffixes[-2:]) if place.suffixes[-2:-1] == [".tar"] else place.suffix
        inside = folder / f"{called}{ending}"
        try:
            os.link(place, inside, follow_symlinks=False)
        except OSError:
            shutil.copy2(place, inside)
        yield folder


@contextlib.contextmanager
def restored(
    state: PastState,
    repository: ResticRepository,
    path: str,
    scratch: Scratch,
    stop: threading.Event,
) -> Iterator[Path]:
    """The folder of a restic snapshot, restored for as long as it is read."""
    with scratch.folder() as folder:
        yield repository.restore(state, path, folder, stop)


def _day(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment):%Y-%m-%d %H:%M}"
