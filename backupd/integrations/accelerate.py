"""For Accelerate: `attach(accelerator, "llama-ft")`, and each `save_state` is a snapshot."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from backupd import client


def attach(
    accelerator: Any,
    model: str,
    *,
    told: Callable[[], Mapping[str, Any]] | None = None,
    **labels: str,
) -> None:
    """Hold snapshots of `model` off while `accelerator.save_state` writes, then take one.

    `told` is called behind each save, and may give `step`, `epoch` and `metrics`.
    """
    save = accelerator.save_state

    @functools.wraps(save)
    def save_state(*given: Any, **more: Any) -> Any:
        with client.writing(model):
            saved = save(*given, **more)
        if accelerator.is_main_process:
            known = dict(told()) if told is not None else {}
            client.snapshot(
                model,
                labels=labels,
                metrics=known.get("metrics"),
                step=known.get("step"),
                epoch=known.get("epoch"),
            )
        return saved

    accelerator.save_state = save_state
