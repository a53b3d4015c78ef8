"""The examples of the field: saved, the disk lost, restored, and the training goes on the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backupd.operations.snapshot import take_snapshot
from tests.support.world import MODEL, World, make_world

pytestmark = pytest.mark.frameworks

SCHEMES = ("model", "params", "model+params", "everything")
WITH_WEIGHTS = ("params", "model+params", "everything")


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path / "world", size=1000)
    shutil.rmtree(world.model_path)
    world.model_path.mkdir()
    return world


def lose_and_restore(world: World, scheme: str) -> None:
    """Snapshot under a scheme, lose the disk, and give back what was kept."""
    model = replace(world.settings.models[MODEL], scheme=scheme)
    with world.open() as installation:
        report = take_snapshot(installation, model)
    assert not report.partial and report.snapshot is not None
    shutil.rmtree(world.model_path)
    world.restore(report.snapshot.version, world.model_path)


def torch_training() -> tuple[Any, Any, Callable[[], float]]:
    import torch

    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    inputs, wanted = torch.ones(4, 8), torch.zeros(4, 1)

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), wanted)
        loss.backward()
        optimizer.step()
        return float(loss)

    return model, optimizer, step


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pytorch_state_dict_and_whole_checkpoint(world: World, scheme: str) -> None:
    """`checkpoint.tar` with epoch, optimizer and loss, as PyTorch's own tutorial saves it."""
    import torch

    model, optimizer, step = torch_training()
    for _ in range(5):
        loss = step()
    folder = world.model_path
    torch.save(model.state_dict(), folder / "model.pt")
    whole = {
        "epoch": 5,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "loss": loss,
    }
    torch.save(whole, folder / "checkpoint.tar")
    (folder / "config.json").write_text('{"layers": [8, 16, 1]}')
    next_loss = step()
    lose_and_restore(world, scheme)
    if scheme in WITH_WEIGHTS:
        model, optimizer, step = torch_training()
        model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
        assert (folder / "checkpoint.tar").exists()
        found = torch.load(folder / "checkpoint.tar", weights_only=True)
        model.load_state_dict(found["model_state_dict"])
        optimizer.load_state_dict(found["optimizer_state_dict"])
        assert (found["epoch"], found["loss"]) == (5, loss)
        assert step() == next_loss
    if scheme != "params":
        assert (folder / "config.json").read_text() == '{"layers": [8, 16, 1]}'


def keras_training() -> tuple[Any, Callable[[], float]]:
    import keras

    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.layers.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1)]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    return model, lambda: float(model.train_on_batch(np.ones((4, 8)), np.zeros((4, 1))))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("form", ["h5", "keras"])
def test_keras_models_of_both_forms(world: World, scheme: str, form: str) -> None:
    import keras

    model, step = keras_training()
    for _ in range(5):
        step()
    place = world.model_path / f"model.{form}"
    model.save(place)
    next_loss = step()
    lose_and_restore(world, scheme)
    if scheme in WITH_WEIGHTS:
        found = keras.models.load_model(place, compile=form == "keras")
        if form == "h5":  # Keras 3 cannot name the loss that it wrote into this form
            found.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
            predicted = found.predict_on_batch(np.ones((4, 8)))
            assert float((predicted**2).mean()) == pytest.approx(next_loss)
        else:
            got = float(found.train_on_batch(np.ones((4, 8)), np.zeros((4, 1))))
            assert got == pytest.approx(next_loss)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_tensorflow_saved_model_and_checkpoint(world: World, scheme: str) -> None:
    import tensorflow as tf

    def training() -> tuple[Any, Callable[[], float]]:
        module = tf.Module()
        module.w = tf.Variable(tf.ones([8, 1]))
        module.v = tf.Variable(tf.zeros([8, 1]))

        def step() -> float:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.matmul(tf.ones([4, 8]), module.w) ** 2)
            (gradient,) = tape.gradient(loss, [module.w])
            module.v.assign(0.9 * module.v + gradient)
            module.w.assign_sub(0.001 * module.v)
            return float(loss)

        return module, step

    module, step = training()
    for _ in range(5):
        step()
    tf.saved_model.save(module, str(world.model_path / "export"))
    tf.train.Checkpoint(module).write(str(world.model_path / "ckpt"))
    next_loss = step()
    lose_and_restore(world, scheme)
    if scheme in WITH_WEIGHTS:
        module, step = training()
        tf.train.Checkpoint(module).read(str(world.model_path / "ckpt")).assert_consumed()
        assert step() == next_loss
    if scheme in ("model+params", "everything"):
        found = tf.saved_model.load(str(world.model_path / "export"))
        loss = tf.reduce_mean(tf.matmul(tf.ones([4, 8]), found.w) ** 2)
        assert float(loss) == next_loss


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_numpy_archive(world: World, scheme: str) -> None:
    arrays = {"w": np.arange(100.0), "b": np.ones(3, dtype="f4")}
    np.savez(world.model_path / "weights.npz", **arrays)
    lose_and_restore(world, scheme)
    if scheme in WITH_WEIGHTS:
        with np.load(world.model_path / "weights.npz") as found:
            assert all((found[name] == array).all() for name, array in arrays.items())
