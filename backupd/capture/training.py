"""Where a training stands, read from the files that training libraries leave in its folder.

`trainer_state.json` of transformers, `metrics.csv` of Lightning's CSVLogger, the file of Keras's
CSVLogger (which begins with `epoch`), and `history.json`, a dump of Keras's `History.history`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backupd.capture.folders import name_of
from backupd.capture.large_json import has_too_many_values

STATE_NAME = b"trainer_state.json"
HISTORY_NAME = b"history.json"
TABLE_SUFFIX = b".csv"

_MAX_JSON_BYTES = 64 << 20
_MAX_HEADER_BYTES = 64 << 10
_MAX_TAIL_BYTES = 256 << 10
_MAX_METRICS = 256
_MAX_NAME = 128
# What tells of the run's speed and not of the model.
_NO_METRIC_ENDS = ("_runtime", "_per_second")
_NO_METRICS = frozenset({"step", "epoch", "total_flos", "global_step"})

Read = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a training is; None and empty where nothing tells."""

    step: int | None = None
    epoch: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


def tells_of_training(path: bytes) -> bool:
    """Whether a file of this name may tell where the training stands."""
    name = name_of(path)
    return name in (STATE_NAME, HISTORY_NAME) or name.endswith(TABLE_SUFFIX)


def read_standing(path: bytes, size: int, read: Read) -> Standing | None:
    """What the file of `size` bytes at `path` tells, or None where it is none of these.

    `read(offset, length)` gives its bytes, fewer at the end.
    """
    try:
        if name_of(path).endswith(TABLE_SUFFIX):
            return _of_table(size, read)
        if size > _MAX_JSON_BYTES:
            return None
        text = read(0, size)
        if has_too_many_values(text):
            return None
        value = json.loads(text)
        if not isinstance(value, dict):
            return None
        return _of_state(value) if name_of(path) == STATE_NAME else _of_history(value)
    except (ValueError, RecursionError, csv.Error):
        return None


def _of_state(value: Mapping[str, Any]) -> Standing | None:
    """transformers.TrainerState: `log_history` has the newest figures last."""
    history = value.get("log_history")
    metrics: dict[str, Any] = {}
    for entry in history if isinstance(history, list) else ():
        if isinstance(entry, dict):
            metrics.update(entry)
    return Standing(
        _whole(value.get("global_step")), _number(value.get("epoch")), _metrics(metrics)
    )


def _of_history(value: Mapping[str, Any]) -> Standing | None:
    """Keras's History: a list of each metric, with one figure for each epoch."""
    lists = {key: figures for key, figures in value.items() if isinstance(figures, list)}
    if not lists or len(lists) != len(value):
        return None
    epochs = max(map(len, lists.values()))
    last = {key: figures[-1] for key, figures in lists.items() if figures}
    return Standing(None, float(epochs), _metrics(last))


def _of_table(size: int, read: Read) -> Standing | None:
    """The newest figure of each column; in Lightning's table a row has only some of them."""
    head = read(0, min(size, _MAX_HEADER_BYTES))
    header, newline, _ = head.partition(b"\n")
    names = next(csv.reader([header.decode("utf-8", "replace")]), [])
    if not newline or "epoch" not in names or len(names) > _MAX_METRICS:
        return None
    first = len(header) + 1
    start = max(first, size - _MAX_TAIL_BYTES)
    tail = read(start, size - start).decode("utf-8", "replace")
    # A row whose beginning was cut off is none; nor is one that is not written to its end.
    rows = tail[: tail.rfind("\n") + 1]
    if start > first:
        rows = rows[rows.find("\n") + 1 :]
    newest: dict[str, str] = {}
    for row in csv.reader(io.StringIO(rows)):
        newest.update(_filled(names, row))
    if not newest:
        return None
    epoch = _number(newest.get("epoch"))
    if epoch is not None and "step" not in names:
        epoch += 1  # Keras counts from 0 and writes a row at an epoch's end
    return Standing(_whole(newest.get("step")), epoch, _metrics(newest))


def _filled(names: Sequence[str], row: Sequence[str]) -> Iterable[tuple[str, str]]:
    return ((name, text) for name, text in zip(names, row, strict=False) if text != "")


def _metrics(values: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in values.items():
        number = _number(value)
        if (
            number is not None
            and key not in _NO_METRICS
            and not key.endswith(_NO_METRIC_ENDS)
            and 0 < len(key) <= _MAX_NAME
            and len(found) < _MAX_METRICS
        ):
            found[key] = number
    return found


def _number(value: Any) -> float | None:
    """A finite number, also one written as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and 0 <= number < 1 << 63 else None
