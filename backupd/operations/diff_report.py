"""What a comparison of two snapshots answers: plain values, in the order they are shown in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backupd.operations.diff_code import CodeDiff
from backupd.operations.diff_configs import ConfigChange
from backupd.operations.diff_files import FileChange
from backupd.operations.diff_numbers import Figures
from backupd.operations.reports import SnapshotInfo


@dataclass(frozen=True, slots=True)
class TensorChange:
    """One tensor that differs.

    `change` is added, removed, changed, or replaced (the same name with another shape or type,
    so that nothing can be compared). `path` is the file that holds it now, of what was removed
    the one that held it. Of an added tensor the `old_` fields are empty. `figures` is None
    where there is nothing to compare.
    """

    change: str
    name: str
    path: bytes
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    old_path: bytes = b""
    old_dtype: str = ""
    old_shape: tuple[int, ...] = ()
    figures: Figures | None = None


@dataclass(frozen=True, slots=True)
class LayerChange:
    """The tensors of one layer in one folder: how many there are, how many differ, and the
    figures of those that differ together, None where none of them is a table of numbers."""

    folder: bytes
    prefix: str
    tensors: int
    changed: int
    size_bytes: int
    figures: Figures | None


@dataclass(frozen=True, slots=True)
class DiffReport:
    """How `new` differs from `old`.

    `files` are in path order; `tensors` and `layers` by mean change, the largest first. Tensors
    of files that are the same are not looked at; `unchanged_tensors` counts those of the others.
    `labels`, `metrics` and `code` give old and new value of what differs, None for none.
    `configs` are configuration files whose settings differ; `source` is how what is kept of the
    code differs.
    `failed` says by path what could not be compared, and why.
    """

    old: SnapshotInfo
    new: SnapshotInfo
    files: tuple[FileChange, ...]
    unchanged_files: int
    tensors: tuple[TensorChange, ...] = ()
    unchanged_tensors: int = 0
    layers: tuple[LayerChange, ...] = ()
    labels: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    metrics: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    code: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    configs: tuple[ConfigChange, ...] = ()
    source: CodeDiff = field(default_factory=CodeDiff)
    failed: Mapping[str, str] = field(default_factory=dict)
