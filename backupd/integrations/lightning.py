"""For Lightning: `Trainer(callbacks=[snapshot_callback("llama-ft"), ModelCheckpoint(...)])`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backupd import client


class _Hooks:
    """Lightning says that it is about to write a checkpoint, and not that it has: it has when
    the next event of another kind comes."""

    def __init__(self, model: str, labels: Mapping[str, str]) -> None:
        self.model = model
        self.labels = dict(labels)
        self._saved: tuple[int, int, dict[str, Any]] | None = None

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: Any) -> None:
        """A checkpoint is about to be written."""
        if trainer.is_global_zero:
            metrics = dict(trainer.callback_metrics)
            self._saved = (trainer.global_step, trainer.current_epoch, metrics)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, number: int) -> None:
        """The training goes on, so what was to be written is."""
        self._tell()

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        """See `on_train_batch_start`."""
        self._tell()

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        """See `on_train_batch_start`."""
        self._tell()

    def teardown(self, trainer: Any, module: Any, stage: str) -> None:
        """The end, behind the last checkpoint."""
        self._tell()

    def _tell(self) -> None:
        saved, self._saved = self._saved, None
        if saved is not None:
            step, epoch, metrics = saved
            client.snapshot(self.model, labels=self.labels, metrics=metrics, step=step, epoch=epoch)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.model, self.labels)


def _again(model: str, labels: Mapping[str, str]) -> Any:
    return snapshot_callback(model, **labels)


def snapshot_callback(model: str, **labels: str) -> Any:
    """A callback that takes a snapshot of `model`, under `labels`, behind each checkpoint."""
    try:
        from lightning.pytorch.callbacks import Callback
    except ImportError:
        from pytorch_lightning.callbacks import Callback

    made = type("SnapshotCallback", (_Hooks, Callback), {})
    return made(model, labels)
