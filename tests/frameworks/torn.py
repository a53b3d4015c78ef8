"""Snapshots of a folder that a real training program keeps saving to, stopped and killed at will.

`python -m tests.frameworks.torn KIND SNAPSHOTS SEED [--tool restic]` prints one line of JSON: how
many snapshots there were, how many said that something is incomplete, how many hold what is no
state that the program saved, which states were seen, and whether the last one was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from tests.frameworks import writers

# A state takes some milliseconds to save; stopped now and then it takes some tenths of a second.
_RUN_SECONDS = (0.001, 0.03)
_STOP_SECONDS = (0.005, 0.08)
_FIRST_SECONDS = 60
_STATES_A_RUN = 1000
_KILL_EVERY = 6
_TRAINER_STATES = 12


class Writer:
    """The program, and the hand that stops and kills the child that saves."""

    def __init__(self, kind: str, folder: Path, draw: random.Random) -> None:
        self._kind = kind
        self._folder = folder
        self._draw = draw
        self._process = subprocess.Popen(
            [sys.executable, writers.__file__, kind, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._line() == "ready"
        self._next = 1
        self._child = 0
        self._over = threading.Event()
        self._stopper = threading.Thread(target=self._jolt, daemon=True)

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the program ended")
        return line.strip()

    def begin(self, states: int) -> None:
        """Save `states` more states, in a child that is stopped now and then from its first on."""
        before = self._newest()
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self._next} {states}\n")
        self._process.stdin.flush()
        self._next += states
        self._child = int(self._line())
        self._over.clear()
        deadline = time.monotonic() + _FIRST_SECONDS
        while self._newest() == before and time.monotonic() < deadline:
            time.sleep(0.005)
        self._stopper = threading.Thread(target=self._jolt, daemon=True)
        self._stopper.start()

    def _newest(self) -> int:
        """When anything in the folder was written last."""
        newest = 0
        for path in self._folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                newest = max(newest, path.stat().st_ctime_ns)
        return newest

    def _jolt(self) -> None:
        while not self._over.wait(self._draw.uniform(*_RUN_SECONDS)):
            try:
                os.kill(self._child, signal.SIGSTOP)
                self._over.wait(self._draw.uniform(*_STOP_SECONDS))
            except ProcessLookupError:
                return
            finally:
                self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        try:
            os.kill(self._child, number)
        except ProcessLookupError:
            return

    def end(self, *, kill: bool) -> int:
        """Kill the child, or let it come to its end; its exit code."""
        if kill:
            self._signal(signal.SIGKILL)
        else:
            self._over.set()
            self._signal(signal.SIGCONT)
        code = int(self._line())
        self._over.set()
        self._stopper.join()
        return code

    def kill(self) -> None:
        """End the program and its child at once, however things stand; a stopped one would keep
        the pipes of whoever waits for this process."""
        self._over.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(120)


class Tool(Protocol):
    """A backup program: `take` makes a snapshot and gives what it calls incomplete, and `give`
    puts the newest one into an empty folder."""

    def take(self, *, patient: bool) -> list[str]: ...

    def give(self, to: Path) -> None: ...


class Backupd:
    """backupd itself, through the operation that daemon and command line call."""

    def __init__(self, work: Path, model: Path) -> None:
        from backupd.config.settings import KeySettings, LocalTarget, ModelSettings, Settings
        from backupd.operations.setup import initialise

        self._settings = Settings(
            source=work / "backupd.yaml",
            state_dir=work / "state",
            host="box",
            key=KeySettings(encryption=False),
            targets={"disk": LocalTarget("disk", work / "repo")},
            policies={},
            models={"m": ModelSettings("m", model, {"disk": ()})},
        )
        self._newest = ""
        with self._open() as installation:
            initialise(installation)

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        from backupd.operations.installation import open_installation

        with open_installation(self._settings, environment={}, clock=time.time) as installation:
            yield installation

    def take(self, *, patient: bool) -> list[str]:
        from backupd.capture.settle import SettleRules
        from backupd.operations.settle_plan import Settling
        from backupd.operations.snapshot import take_snapshot

        rules = SettleRules(0.0, 0.2, 2.0 if patient else 0.0)
        with self._open() as installation:
            model = self._settings.models["m"]
            report = take_snapshot(installation, model, settling=Settling(rules))
        assert report.snapshot is not None
        self._newest = report.snapshot.name
        assert report.partial == bool(report.incomplete)
        return list(report.incomplete)

    def give(self, to: Path) -> None:
        from backupd.operations.resolve import resolve
        from backupd.operations.restore import RestoreRequest, restore

        with self._open() as installation:
            done = restore(installation, resolve(installation, self._newest), RestoreRequest(to=to))
        assert not done.failed, done.failed


class Restic:
    """restic with its defaults, and compression off, as it is quickest so."""

    def __init__(self, work: Path, model: Path) -> None:
        self._model = model
        self._call = ["restic", "-q", "--compression", "off", "-r", str(work / "repo")]
        if b"--compression" not in subprocess.run(["restic", "--help"], capture_output=True).stdout:
            self._call = ["restic", "-q", "-r", str(work / "repo")]
        self._environment = {
            **os.environ,
            "RESTIC_PASSWORD": "p",
            "RESTIC_CACHE_DIR": str(work / "c"),
        }
        self._run("init")

    def _run(self, *words: str) -> int:
        done = subprocess.run([*self._call, *words], env=self._environment, capture_output=True)
        # 3: the snapshot was taken, and not every file could be read.
        if done.returncode not in (0, 3):
            raise RuntimeError(done.stderr.decode())
        return done.returncode

    def take(self, *, patient: bool) -> list[str]:
        return ["not every file was read"] * (self._run("backup", str(self._model)) == 3)

    def give(self, to: Path) -> None:
        raw = to.with_name(to.name + ".raw")
        self._run("restore", "latest", "--target", str(raw))
        (raw / self._model.relative_to("/")).rename(to)
        shutil.rmtree(raw)


def measure(kind: str, snapshots: int, seed: int, tool: str) -> dict[str, Any]:
    """See the module."""
    draw = random.Random(seed)
    torn: list[str] = []
    seen: list[int] = []
    incomplete = 0
    with contextlib.ExitStack() as stack:
        work = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="torn-", ignore_cleanup_errors=True)
            )
        )
        model = work / "model"
        model.mkdir()
        made: Tool = Restic(work, model) if tool == "restic" else Backupd(work, model)
        writer = Writer(kind, model, draw)
        stack.callback(writer.kill)
        states = _TRAINER_STATES if kind in writers.RUNNERS else _STATES_A_RUN
        running = False
        for number in range(snapshots):
            if not running:
                writer.begin(states)
                running = True
            time.sleep(draw.uniform(0.0, 0.15))
            named = made.take(patient=draw.random() < 0.3)
            incomplete += bool(named)
            _look(made, kind, work / "out", named, seen, torn)
            if number % _KILL_EVERY == _KILL_EVERY - 1:
                writer.end(kill=True)
                running = False
                time.sleep(draw.uniform(0.0, 0.3))
                named = made.take(patient=False)
                incomplete += bool(named)
                _look(made, kind, work / "out", named, seen, torn)
        if running:
            writer.end(kill=True)
        # What a crash left is written over by a run that comes to its end.
        writer.begin(4)
        code = writer.end(kill=False)
        time.sleep(0.3)
        named = made.take(patient=True)
        _look(made, kind, work / "out", named, seen, torn)
        writer.close()
        return {
            "kind": kind,
            "tool": tool,
            "snapshots": snapshots + snapshots // _KILL_EVERY + 1,
            "incomplete": incomplete,
            "torn": len(torn),
            "how": sorted(set(torn))[:5],
            "states": len(set(seen)),
            "last": [
                code,
                bool(named),
                seen[-1] if seen else None,
                writers.read_state(kind, model),
            ],
        }


def _look(
    made: Tool, kind: str, out: Path, named: list[str], seen: list[int], torn: list[str]
) -> None:
    """Read what the newest snapshot holds with the program's own library."""
    try:
        made.give(out)
        for sentence in named:
            path, _, why = sentence.partition(": ")
            # A checkpoint that was being deleted is named, and its rest is not one to load.
            if "it is kept without that" in why or "was deleted while" in why:
                shutil.rmtree((out / path).parent, ignore_errors=True)
        number = writers.read_state(kind, out)
        if number is not None:
            seen.append(number)
    except BaseException as error:  # torch.distributed's own is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        torn.append(f"{type(error).__name__}: {str(error)[:160]}")
    finally:
        shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=writers.KINDS)
    parser.add_argument("snapshots", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("--tool", choices=("backupd", "restic"), default="backupd")
    given = parser.parse_args()
    print(json.dumps(measure(given.kind, given.snapshots, given.seed, given.tool)))
