"""For Keras: `model.fit(..., callbacks=[ModelCheckpoint(...), snapshot_callback("llama-ft")])`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backupd import client


class _Hooks:
    """Tells at the next epoch's begin, or at the end, so that its place in the list is no matter:
    by then every callback of the epoch before has written."""

    def __init__(self, model: str, labels: Mapping[str, str]) -> None:
        super().__init__()
        self.backup_model = model
        self.backup_labels = dict(labels)
        self._ended: tuple[int, dict[str, Any]] | None = None

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """An epoch ended; its checkpoint may yet be written."""
        self._ended = (epoch + 1, dict(logs or {}))

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """The next one begins, so it is written."""
        self._tell()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """The last one is written."""
        self._tell()

    def _tell(self) -> None:
        ended, self._ended = self._ended, None
        if ended is None:
            return
        optimizer = getattr(getattr(self, "model", None), "optimizer", None)
        iterations = getattr(optimizer, "iterations", None)
        try:
            step = None if iterations is None else int(iterations)
        except Exception:
            step = None
        client.snapshot(
            self.backup_model,
            labels=self.backup_labels,
            metrics=ended[1],
            step=step,
            epoch=ended[0],
        )


def snapshot_callback(model: str, **labels: str) -> Any:
    """A callback that takes a snapshot of `model`, under `labels`, after each epoch."""
    from keras.callbacks import Callback

    made = type("SnapshotCallback", (_Hooks, Callback), {})
    return made(model, labels)
