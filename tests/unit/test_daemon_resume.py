"""What a stop leaves of a snapshot whose target has become slow: it is in the index, for resume."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from backupd.config.settings import ModelSettings, Settings
from backupd.errors import StoppedError
from backupd.operations.installation import open_installation
from backupd.operations.setup import initialise
from backupd.operations.snapshot import take_snapshot
from backupd.targets import open as opening
from backupd.targets.base import Buffer, Target
from backupd.targets.wrapping import WrappedTarget
from tests.unit.daemon_fakes import PATIENCE_SECONDS, eventually, model, settings

SIZE = 64 << 20


class HangingTarget(WrappedTarget):
    """Puts two packs, and hangs on those after them until it is let go."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.left = 2
        self.hanging = threading.Event()
        self.go = threading.Event()

    def put(self, name: str, parts: Sequence[Buffer], *, warm: bool = False) -> None:
        if name.startswith("packs/"):
            self.left -= 1
            if self.left < 0:
                self.hanging.set()
                self.go.wait(2 * PATIENCE_SECONDS)
        self._target.put(name, parts, warm=warm)


def test_packs_that_went_out_are_indexed_at_a_stop_while_the_next_put_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = model(tmp_path / "run")
    configuration = settings(tmp_path, run)
    run.path.mkdir()
    (run.path / "weights").write_bytes(os.urandom(SIZE))
    with open_installation(configuration, environment={}) as installation:
        initialise(installation)
    real, made = opening.open_target, []

    def hanging(*arguments: object, **options: object) -> Target:
        made.append(HangingTarget(real(*arguments, **options)))  # type: ignore[arg-type]
        return made[-1]

    stop = threading.Event()
    ended: list[BaseException] = []

    def snapshot() -> None:
        try:
            with open_installation(configuration, environment={}) as installation:
                take_snapshot(installation, run, stop=stop)
        except StoppedError as error:
            ended.append(error)

    with monkeypatch.context() as patched:
        patched.setattr(opening, "open_target", hanging)
        thread = threading.Thread(target=snapshot)
        thread.start()
        eventually(lambda: made and made[0].hanging.is_set())
    index = tmp_path / "repository" / "index"
    stop.set()
    # The put hangs still, and may do so until the process is ended without it.
    eventually(lambda: any(path.is_file() for path in index.rglob("*")))
    assert not made[0].go.is_set()
    resumed = stored_by_another(configuration, run)
    assert resumed < SIZE - (8 << 20)
    made[0].go.set()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def stored_by_another(configuration: Settings, run: ModelSettings) -> int:
    """The bytes that the next daemon's snapshot stores, while the first one still hangs."""
    with open_installation(configuration, environment={}) as installation:
        report = take_snapshot(installation, run)
    assert report.snapshot is not None
    return report.snapshot.stored_bytes
