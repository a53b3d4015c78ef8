"""Callbacks in real short trainings, with the daemon there, absent, hung, and killed half-way."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backupd import client
from backupd.daemon.client import list_snapshots
from backupd.operations.reports import SnapshotInfo
from tests.frameworks import writers
from tests.support.training_client import best_round, own_sender

pytestmark = pytest.mark.frameworks

ROOT = Path(__file__).parents[2]
CONFIG = """\
state_dir: {root}/state
key: {{encryption: none}}
limits: {{nice: 0, io: none}}
targets: {{disk: {{type: local, path: {root}/repo}}}}
policies:
  best: {{keep_last: 3, keep_best: {{metric: {metric}, mode: min}}}}
models:
  llama-ft: {{path: {root}/run, schedule: "0 3 1 1 *", settle: 0.2s, targets: {{disk: best}}}}
"""


def command(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "backupd", "--config", str(root / "backupd.yaml"), *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@contextlib.contextmanager
def daemon(root: Path, metric: str) -> Iterator[subprocess.Popen[bytes]]:
    """backupd itself, as it runs; killed at the end if it still is."""
    (root / "run").mkdir(exist_ok=True)
    (root / "backupd.yaml").write_text(CONFIG.format(root=root, metric=metric))
    made = command(root, "init")
    assert made.returncode == 0, made.stderr
    with (root / "daemon.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "backupd", "--config", str(root / "backupd.yaml"), "run"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )
    try:
        deadline = time.monotonic() + 150
        while not (root / "state" / "control.sock").exists() and time.monotonic() < deadline:
            assert process.poll() is None, (root / "daemon.log").read_text()
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def to_the_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("BACKUPD_SOCKET", str(tmp_path / "state" / "control.sock"))
    with own_sender(monkeypatch):
        yield


def with_step(root: Path, step: int) -> list[SnapshotInfo]:
    return [one for one in list_snapshots(root / "state", model="llama-ft") if one.step == step]


def last_with_step(root: Path, step: int) -> SnapshotInfo:
    """The snapshot of the last save, which the daemon takes in its own time."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        if found := with_step(root, step):
            return found[-1]
        time.sleep(0.2)
    raise AssertionError((root / "daemon.log").read_text()[-3000:])


# -- the trainings --------------------------------------------------------------------------------


def train_transformers(folder: Path) -> int:
    from backupd.integrations.transformers import snapshot_callback

    writers.run_trainer(folder, 0, 4, callbacks=[snapshot_callback("llama-ft", by="trainer")])
    return 4


def train_lightning(folder: Path) -> int:
    from backupd.integrations.lightning import snapshot_callback

    writers.run_lightning(folder, 0, 4, snapshot_callback("llama-ft", by="trainer"))
    return 4


def train_keras(folder: Path) -> int:
    import keras
    import numpy as np

    from backupd.integrations.keras import snapshot_callback

    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    saver = keras.callbacks.ModelCheckpoint(folder / "last.keras")
    told = snapshot_callback("llama-ft", by="trainer")
    model.fit(
        np.zeros((8, 4)), np.zeros(8), epochs=2, batch_size=4, verbose=0, callbacks=[told, saver]
    )
    return 4


def train_accelerate(folder: Path) -> int:
    import torch
    from accelerate import Accelerator

    from backupd.integrations.accelerate import attach

    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(4, 1)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    step = 0
    told: Callable[[], dict[str, Any]] = lambda: {"step": step, "metrics": {"loss": 0.5}}  # noqa: E731
    attach(accelerator, "llama-ft", told=told, by="trainer")
    for step in range(1, 5):
        loss = model(torch.zeros(2, 4)).pow(2).mean()
        accelerator.backward(loss)
        optimizer.step()
        if step % 2 == 0:
            accelerator.save_state(str(folder / f"state-{step}"))
    return 4


TRAININGS: dict[str, tuple[Callable[[Path], int], str]] = {
    "transformers": (train_transformers, "loss"),
    "lightning": (train_lightning, "train_loss"),
    "keras": (train_keras, "loss"),
    "accelerate": (train_accelerate, "loss"),
}


@pytest.mark.parametrize("library", TRAININGS)
def test_each_library_tells_step_metrics_and_labels(library: str, tmp_path: Path) -> None:
    train, metric = TRAININGS[library]
    with daemon(tmp_path, metric):
        steps = train(tmp_path / "run")
        found = last_with_step(tmp_path, steps)
        assert found.labels == {"by": "trainer"}
        assert metric in found.metrics
        assert found.incomplete == ()
        best = command(tmp_path, "--json", "show", "llama-ft@best")
        assert best.returncode == 0, best.stderr


@pytest.mark.parametrize("library", TRAININGS)
@pytest.mark.parametrize("how", ["absent", "hung"])
def test_a_training_ends_as_it_would_without_us(library: str, how: str, tmp_path: Path) -> None:
    train, _ = TRAININGS[library]
    (tmp_path / "run").mkdir()
    with contextlib.ExitStack() as stack:
        if how == "hung":
            (tmp_path / "state").mkdir()
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(tmp_path / "state" / "control.sock"))
            listener.listen(1)
        assert train(tmp_path / "run") == 4
    assert any((tmp_path / "run").iterdir())


def test_a_daemon_killed_in_the_middle_is_no_matter(tmp_path: Path) -> None:
    with daemon(tmp_path, "loss") as process:
        killer = threading.Timer(0.3, process.kill)
        killer.start()
        assert train_transformers(tmp_path / "run") == 4
        killer.join()


@pytest.mark.parametrize("how", ["absent", "hung", "there"])
def test_a_call_takes_a_millisecond_at_most(how: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        if how == "hung":
            (tmp_path / "state").mkdir()
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(tmp_path / "state" / "control.sock"))
            listener.listen(1)
        elif how == "there":
            stack.enter_context(daemon(tmp_path, "loss"))

        def ask(step: int) -> None:
            client.snapshot("llama-ft", metrics={"loss": 1.0}, step=step)

        assert best_round(ask, calls=500, pause_seconds=0.0005, enough_seconds=1e-3) < 1e-3


def test_while_the_trainer_writes_no_snapshot_is_taken(tmp_path: Path) -> None:
    with daemon(tmp_path, "loss"):
        (tmp_path / "run" / "last.npy").write_bytes(b"")
        with client.writing("llama-ft"):
            client.snapshot("llama-ft", step=1)
            time.sleep(2.5)
            assert not with_step(tmp_path, 1)
            import numpy as np

            np.save(tmp_path / "run" / "last.npy", np.zeros(100))
        assert last_with_step(tmp_path, 1).incomplete == ()


def test_a_trainer_that_dies_while_it_writes_lets_go(tmp_path: Path) -> None:
    program = (
        "import os, signal, time\nfrom backupd import client\n"
        "with client.writing('llama-ft'):\n"
        "    client._SENDER.drain(100)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with daemon(tmp_path, "loss"):
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=dict(os.environ))
        name = client.snapshot("llama-ft", step=2, wait=True, timeout_seconds=200)
        assert name is not None and name.startswith("llama-ft@v")


def test_a_hook_that_the_library_knows_is_the_one_that_is_used(tmp_path: Path) -> None:
    """A library that renames its events would leave the callback silent, and tests with it."""
    import keras
    from lightning.pytorch.callbacks import Callback
    from transformers import TrainerCallback

    assert hasattr(TrainerCallback, "on_save")
    for event in ("on_save_checkpoint", "on_train_batch_start", "on_validation_start", "teardown"):
        assert hasattr(Callback, event)
    for event in ("on_epoch_end", "on_epoch_begin", "on_train_end"):
        assert hasattr(keras.callbacks.Callback, event)
