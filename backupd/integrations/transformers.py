"""For Hugging Face's Trainer: `Trainer(..., callbacks=[snapshot_callback("llama-ft")])`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backupd import client


class _Hooks:
    """The events of `transformers.TrainerCallback` that matter. `on_save` comes when the
    checkpoint is written, its `trainer_state.json` included."""

    def __init__(self, model: str, labels: Mapping[str, str]) -> None:
        self.model = model
        self.labels = dict(labels)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A checkpoint was saved: every process is told, one tells the daemon."""
        if not state.is_world_process_zero:
            return
        metrics: dict[str, Any] = {}
        for entry in state.log_history or ():
            metrics.update(entry)
        client.snapshot(
            self.model,
            labels=self.labels,
            metrics={key: value for key, value in metrics.items() if key not in _NO_METRICS},
            step=state.global_step,
            epoch=state.epoch,
        )


_NO_METRICS = frozenset({"step", "epoch", "total_flos"})


def snapshot_callback(model: str, **labels: str) -> Any:
    """A callback that takes a snapshot of `model`, under `labels`, whenever the trainer saves."""
    from transformers import TrainerCallback

    made = type("SnapshotCallback", (_Hooks, TrainerCallback), {})
    return made(model, labels)
