"""Training programs that save state after state with the libraries' own ways of saving.

`python writers.py KIND FOLDER` reads from its standard input how many states to save from which
number on, in a process of its own for each line, which the test stops and kills as it likes.
State `n` holds nothing but what follows from `n`, so that a reader can tell a whole one from a
mixture. `read_state` gives the number of what lies in a folder, by the library's own reader.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

COUNT = 120_000
LAYERS = 4
PAUSE_SECONDS = 0.1
Save = Callable[[Path, int], None]


class TornError(Exception):
    """What was read is of no single state."""


def _same(values: list[float]) -> int:
    if len(set(values)) != 1:
        raise TornError(f"a mixture of {sorted(set(values))[:4]}")
    return int(values[0])


def _arrays(number: int) -> dict[str, Any]:
    import numpy as np

    return {f"layer{k}": np.full(COUNT, number, dtype="f4") for k in range(LAYERS)}


def _number_of(arrays: dict[str, Any]) -> int:
    if len(arrays) != LAYERS:
        raise TornError(f"{len(arrays)} of {LAYERS} tensors")
    return _same([float(edge) for a in arrays.values() for edge in (a.min(), a.max())])


# -- one file, overwritten in place ---------------------------------------------------------------


def save_torch(folder: Path, number: int) -> None:
    import torch

    state = {name: torch.from_numpy(a) for name, a in _arrays(number).items()}
    torch.save(
        {"state_dict": state, "epoch": number, "loss": 1.0 / (number + 1)}, folder / "last.pt"
    )


def load_torch(folder: Path) -> int:
    import torch

    found = torch.load(folder / "last.pt", weights_only=True)
    number = _number_of(found["state_dict"])
    return _same([float(number), float(found["epoch"])])


def save_safetensors(folder: Path, number: int) -> None:
    from safetensors.numpy import save

    # As many training programs do: bytes made in memory, then written in place.
    with (folder / "model.safetensors").open("wb") as file:
        file.write(save(_arrays(number)))


def load_safetensors(folder: Path) -> int:
    from safetensors.numpy import load_file

    return _number_of(load_file(folder / "model.safetensors"))


def save_npz(folder: Path, number: int) -> None:
    import numpy as np

    np.savez(folder / "state.npz", **_arrays(number))
    np.save(folder / "moment.npy", _arrays(number)["layer0"])


def load_npz(folder: Path) -> int:
    import numpy as np

    numbers = []
    if (folder / "state.npz").exists():
        with np.load(folder / "state.npz") as found:
            numbers.append(_number_of(dict(found)))
    if (folder / "moment.npy").exists():
        moment = np.load(folder / "moment.npy")
        numbers.append(_same([float(moment.min()), float(moment.max())]))
    return max(numbers)


_models: dict[str, Any] = {}


def _keras_model() -> Any:
    import keras

    if "keras" not in _models:
        layers = [keras.layers.Input((300,))]
        layers += [keras.layers.Dense(300, name=f"dense{k}") for k in range(LAYERS)]
        model = _models["keras"] = keras.Sequential(layers)
        model.compile(optimizer="sgd", loss="mse")
    return _models["keras"]


def _fill(model: Any, number: int) -> Any:
    import numpy as np

    for layer in model.layers:
        layer.set_weights([np.full(w.shape, number, dtype="f4") for w in layer.get_weights()])
    return model


def _number_of_keras(model: Any) -> int:
    edges = [w for layer in model.layers for w in layer.get_weights()]
    if len(edges) != 2 * LAYERS:
        raise TornError("layers are missing")
    return _same([float(edge) for w in edges for edge in (w.min(), w.max())])


def save_keras(folder: Path, number: int) -> None:
    _fill(_keras_model(), number).save(folder / "model.keras")


def load_keras(folder: Path) -> int:
    import keras

    return _number_of_keras(keras.models.load_model(folder / "model.keras", compile=False))


def save_h5(folder: Path, number: int) -> None:
    model = _fill(_keras_model(), number)
    model.save(folder / "model.h5")
    model.save_weights(folder / "model.weights.h5")


def load_h5(folder: Path) -> int:
    import keras

    numbers = []
    if (folder / "model.h5").exists():
        found = keras.models.load_model(folder / "model.h5", compile=False)
        numbers.append(_number_of_keras(found))
    if (folder / "model.weights.h5").exists():
        model = _fill(_keras_model(), -1)
        model.load_weights(folder / "model.weights.h5")
        numbers.append(_number_of_keras(model))
    return max(numbers)


# -- several files --------------------------------------------------------------------------------


def _tf_module() -> Any:
    import tensorflow as tf

    if "tf" not in _models:
        module = tf.Module()
        module.layers = [tf.Variable(tf.zeros([COUNT])) for _ in range(LAYERS)]
        module.step = tf.Variable(0.0)
        _models["tf"] = module
    return _models["tf"]


def _assign(module: Any, number: int) -> Any:
    import numpy as np

    for variable in module.layers:
        variable.assign(np.full(COUNT, number, dtype="f4"))
    module.step.assign(float(number))
    return module


def _number_of_tf(module: Any) -> int:
    values = [float(module.step.numpy())]
    for variable in module.layers:
        values += [float(variable.numpy().min()), float(variable.numpy().max())]
    return _same(values)


def save_tf_checkpoint(folder: Path, number: int) -> None:
    import tensorflow as tf

    tf.train.Checkpoint(_assign(_tf_module(), number)).write(str(folder / "ckpt"))


def load_tf_checkpoint(folder: Path) -> int:
    import tensorflow as tf

    if not any(folder.glob("ckpt.*")):
        return 0  # what lies there has its temporary name yet
    module = _assign(_tf_module(), -1)
    tf.train.Checkpoint(module).read(str(folder / "ckpt")).assert_consumed()
    return _number_of_tf(module)


def save_saved_model(folder: Path, number: int) -> None:
    import tensorflow as tf

    tf.saved_model.save(_assign(_tf_module(), number), str(folder / "export"))


def load_saved_model(folder: Path) -> int:
    import tensorflow as tf

    return _number_of_tf(tf.saved_model.load(str(folder / "export")))


def save_shards(folder: Path, number: int) -> None:
    """As transformers' save_pretrained: shards, then the index, each time over the last ones."""
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    state = {name: torch.from_numpy(a) for name, a in _arrays(number).items()}
    plan = split_torch_state_dict_into_shards(state, max_shard_size=COUNT * 8)
    for name, tensors in plan.filename_to_tensors.items():
        save_file({tensor: state[tensor] for tensor in tensors}, folder / name)
    index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def load_shards(folder: Path) -> int:
    from safetensors.numpy import load_file

    index = json.loads((folder / "model.safetensors.index.json").read_text())
    arrays: dict[str, Any] = {}
    for name in set(index["weight_map"].values()):
        arrays |= load_file(folder / name)
    return _number_of(arrays)


def save_distributed(folder: Path, number: int) -> None:
    import torch
    import torch.distributed.checkpoint as dcp

    state = {name: torch.from_numpy(a) for name, a in _arrays(number).items()}
    place = folder / f"dcp-{number % 3}"
    shutil.rmtree(place, ignore_errors=True)
    dcp.save(state, checkpoint_id=str(place), no_dist=True)


def load_distributed(folder: Path) -> int:
    import torch
    import torch.distributed.checkpoint as dcp

    numbers = []
    for place in folder.glob("dcp-*"):
        if not any(place.iterdir()):
            continue
        state = {f"layer{k}": torch.zeros(COUNT) for k in range(LAYERS)}
        dcp.load(state, checkpoint_id=str(place), no_dist=True)
        numbers.append(_number_of({name: a.numpy() for name, a in state.items()}))
    return max(numbers)


# -- whole trainings ------------------------------------------------------------------------------


def _tiny() -> Any:
    import torch

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.Parameter(torch.zeros(LAYERS, COUNT))

        def forward(self, x: Any = None, labels: Any = None) -> Any:
            return {"loss": (self.weights.mean() - x.mean()) ** 2}

    return Tiny()


def run_trainer(folder: Path, first: int, states: int, **more: Any) -> None:
    """A Hugging Face Trainer that saves at every step and keeps two checkpoints."""
    import torch
    from transformers import Trainer, TrainingArguments

    class Steps(Trainer):
        def training_step(self, model: Any, inputs: Any, *_: Any) -> Any:
            """No training: the weights are the number of the step, which tells a mixture."""
            with torch.no_grad():
                model.weights.fill_(float(self.state.global_step + 1))
            return torch.tensor(1.0 / (self.state.global_step + 1))

    data = [{"x": torch.zeros(1)} for _ in range(8)]
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=first + states,
        save_steps=1,
        save_total_limit=2,
        logging_steps=1,
        per_device_train_batch_size=1,
        learning_rate=0.0,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    trainer = Steps(model=_tiny(), args=arguments, train_dataset=data, **more)
    trainer.train(resume_from_checkpoint=_last_whole(folder))


def _last_whole(folder: Path) -> str | None:
    """What a careful user resumes from: the newest checkpoint that has its state."""
    found = [p.parent for p in folder.glob("checkpoint-*/trainer_state.json") if p.stat().st_size]
    found.sort(key=lambda path: int(path.name.rpartition("-")[2]))
    for place in reversed(found):
        try:
            json.loads((place / "trainer_state.json").read_text())
            return str(place)
        except ValueError:
            continue
    return None


def load_trainer(folder: Path) -> int:
    import torch
    from safetensors.torch import load_file

    numbers = []
    for place in sorted(folder.glob("checkpoint-*")):
        number = int(place.name.rpartition("-")[2])
        if (place / "model.safetensors").exists():
            weights = load_file(place / "model.safetensors")["weights"]
            if _same([float(weights.min()), float(weights.max())]) != number:
                raise TornError(f"{place.name} holds other weights")
        for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth"):
            if (place / name).exists():
                torch.load(place / name, weights_only=False)
        if (place / "trainer_state.json").exists():
            state = json.loads((place / "trainer_state.json").read_text())
            if state["global_step"] != number:
                raise TornError(f"{place.name} holds another state")
            numbers.append(number)
    return max(numbers, default=0)


def run_lightning(folder: Path, first: int, states: int, *callbacks: Any) -> None:
    """A Lightning training that keeps the two newest checkpoints and `last.ckpt`."""
    import lightning
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.tiny = _tiny()

        def training_step(self, batch: Any, number: int) -> Any:
            with torch.no_grad():
                self.tiny.weights.fill_(float(self.global_step + 1 + first))
            loss = self.tiny(batch)["loss"]
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.0, momentum=0.9)

    saver = ModelCheckpoint(
        dirpath=folder,
        filename="{step}",
        save_top_k=2,
        monitor="step",
        mode="max",
        save_last=True,
        every_n_train_steps=1,
    )
    trainer = lightning.Trainer(
        max_steps=states,
        callbacks=[saver, *callbacks],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = torch.utils.data.DataLoader(torch.zeros(states, 1))
    trainer.fit(Module(), data)


def load_lightning(folder: Path) -> int:
    import torch

    numbers = []
    for place in sorted(folder.glob("*.ckpt")):
        found = torch.load(place, weights_only=False)
        weights = found["state_dict"]["tiny.weights"]
        numbers.append(_same([float(weights.min()), float(weights.max())]))
    return max(numbers)


SAVERS: dict[str, Save] = {
    "torch": save_torch,
    "safetensors": save_safetensors,
    "npz": save_npz,
    "keras": save_keras,
    "h5": save_h5,
    "tf-checkpoint": save_tf_checkpoint,
    "saved-model": save_saved_model,
    "shards": save_shards,
    "distributed": save_distributed,
}
RUNNERS: dict[str, Callable[[Path, int, int], None]] = {
    "trainer": run_trainer,
    "lightning": run_lightning,
}
READERS: dict[str, Callable[[Path], int]] = {
    "torch": load_torch,
    "safetensors": load_safetensors,
    "npz": load_npz,
    "keras": load_keras,
    "h5": load_h5,
    "tf-checkpoint": load_tf_checkpoint,
    "saved-model": load_saved_model,
    "shards": load_shards,
    "distributed": load_distributed,
    "trainer": load_trainer,
    "lightning": load_lightning,
}
KINDS = tuple(READERS)


def read_state(kind: str, folder: Path) -> int | None:
    """The number of the newest state in `folder`, every file of which was read; None for none.

    Raises what the library raises, and `TornError` for a mixture.
    """
    if not any(path.is_file() for path in folder.rglob("*")):
        return None
    return READERS[kind](folder)


def _save(kind: str, folder: Path, first: int, states: int) -> None:
    if kind in RUNNERS:
        RUNNERS[kind](folder, first, states)
        return
    for number in range(first, first + states):
        SAVERS[kind](folder, number)
        time.sleep(PAUSE_SECONDS)  # in which a program trains


def _serve(kind: str, folder: Path) -> None:
    """Fork a child for each line, so that libraries are imported once."""
    import importlib

    for name in _LIBRARIES[kind]:
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        first, states = map(int, line.split())
        child = os.fork()
        if child == 0:
            try:
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, 0)
                os.dup2(null, 1)
                _save(kind, folder, first, states)
                os._exit(0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


_TORCH = ("torch", "safetensors.torch", "numpy")
_LIBRARIES = {
    "torch": _TORCH,
    "safetensors": ("safetensors.numpy", "numpy"),
    "npz": ("numpy",),
    "keras": ("keras",),
    "h5": ("keras", "h5py"),
    "tf-checkpoint": ("tensorflow",),
    "saved-model": ("tensorflow",),
    "shards": (*_TORCH, "huggingface_hub"),
    "distributed": (*_TORCH, "torch.distributed.checkpoint"),
    "trainer": (*_TORCH, "transformers"),
    "lightning": (*_TORCH, "lightning", "lightning.pytorch.callbacks"),
}


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]))
